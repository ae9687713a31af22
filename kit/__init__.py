"""ThinkPrune, reproducible: prune the thinking of a reasoning model under falling token limits.

A module imports only from those before it (a test holds them to it); nothing runs at import:

    config, paths, problems, prompts                          settings, files, data, wordings
    values, answers, equality, symbolic, extraction,
    grading_workers, grading                                  is this answer right?
    rollout, background, server, engines                      responses, and what generates them
    rewards, arithmetic, training                             reward, the laptop's world, one pruning round
    evaluation, behavior, figures, chain                      numbers with uncertainty, tables, figures, all stages
"""
