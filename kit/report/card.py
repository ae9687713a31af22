"""A model card beside a selected checkpoint, as the hub wants one, and the upload of both, on the user's word only."""

import contextlib
import dataclasses
from pathlib import Path

from kit.report.inputs import rows_of, set_label
from kit.report.tables import cell
from kit.report.texts import render
from kit.runs import catalog, files, manifest, paths
from kit.settings import SOURCES, Config, KitError, folder_of, yaml_text


def write(config: Config, model: str) -> Path:
    """Write README.md into the folder of a round's selected checkpoint, from the tables of notebook 06; returns its path.

    KitError where the model is no round's, its round kept its start, or it has not been evaluated.
    """
    from huggingface_hub import ModelCardData

    schedule, round, _ = catalog.facts(config).get(model, ("", 0, 0))
    if schedule not in config.schedules:
        raise KitError(f"{model}: no round of {config.file}; a card is for a model like {catalog.last_rounds(config)[0]}")
    run, plan = paths.of(config), config.schedules[schedule]
    folder = Path(catalog.selected(config, schedule, round))
    selected, main = files.read_json(run.training(schedule, round) / "selected.json"), rows_of(config, "main", overall=False)
    before, after = ([r for r in main if r.model == name] for name in ("base", model))
    if not selected["step"] or not catalog.has_weights(folder) or not after:
        raise KitError(f"{model}: this round kept its start, its weights are not here, or notebook 06 has not been run yet")
    source = config.model.source
    hub = source != "arithmetic" and not folder_of(source).is_dir()
    trained = config.data.sources.get(config.data.train) or SOURCES.get(config.data.train)
    data = ModelCardData(
        base_model=source if hub else None, datasets=[trained.hub] if trained and trained.hub else None,
        library_name="transformers", pipeline_tag="text-generation", tags=["thinkprune", "grpo", "trl", "efficient-reasoning"])
    settings = {name: dataclasses.asdict(getattr(config, name)) for name in ("training", "selection", "evaluation")}
    text = render(
        "card.md", config=config, data=data.to_yaml().strip(), base=source if hub else Path(source).name, schedule=schedule,
        plan=plan, selected=selected, label=catalog.label(config, model), limits=plan.limits[:round], cell=cell,
        made=files.read_json(run.manifest), steps=catalog.steps_of(config, schedule), rows=list(zip(before, after, strict=True)),
        changes=[r for r in rows_of(config, "changes") if (r.model, r.against) == (model, "base")], set_label=set_label,
        settings=yaml_text(settings), prompt=config.prompts.text("evaluation_user"))
    return files.write_text(folder / "README.md", manifest.scrubbed(text, config))


def write_all(config: Config) -> list[Path]:
    """The cards of all rounds for which `write` finds a checkpoint."""
    cards = []
    for model in catalog.model_names(config):
        with contextlib.suppress(KitError):
            cards.append(write(config, model))
    return cards


def push(config: Config, model: str, repository: str, yes: bool) -> None:
    """Upload a selected checkpoint with its card to a repository of the hub, private if it is new; without `yes` say only what
    would be. KitError, and nothing uploaded, without a token or where the hub refuses."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import filter_repo_objects

    from kit.rollout import models

    folder = Path(models.fetch(write(config, model).parent))
    names = sorted(filter_repo_objects(
        (f.name for f in folder.iterdir()), allow_patterns=[*models.FILES, "README.md"], ignore_patterns="trainer_state.json"))
    print(*(f"{name}: {(folder / name).stat().st_size / 1e6:.1f} MB" for name in names), sep="\n")
    if yes and not get_token():
        raise KitError("no token of the hub: `hf auth login`, or HF_TOKEN in the environment; nothing was uploaded")
    if not yes:
        print(f"Nothing was uploaded. --yes uploads these files to {repository}, private unless it is there already.")
        return
    try:
        HfApi().create_repo(repository, private=True, exist_ok=True)
        done = HfApi().upload_folder(repo_id=repository, folder_path=folder, allow_patterns=names,
                                     commit_message=f"{config.run}, {catalog.label(config, model)}")
    except (OSError, ValueError) as error:  # all of the hub's own are
        raise KitError(f"{repository}: the hub refused it ({files.first_line(error)})") from None
    print(f"{done.repo_url}: uploaded, commit {done.oid[:7]}")
