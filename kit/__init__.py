"""ThinkPrune, reproducible: prune the thinking of a reasoning model under falling token limits.

Modules import only from those above them: config, paths, problems, prompts, grading, rollout, rewards,
arithmetic, training, evaluation, behavior, figures. Nothing runs at import.
"""
