"""What all runs of one comparison have in common, what each run depends on, and which runs train the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moiety.compare.plan import PlannedScheme
from moiety.compare.records import PLAIN_TEXT, RunRecord, load_record, run_name
from moiety.compare.summary import Comparison, DenseBase
from moiety.recipe.compare import merged
from moiety.recipe.evaluate import EvaluateSettings
from moiety.recipe.recipe import Recipe
from moiety.records.provenance import file_digests
from moiety.train import Progress
from moiety.train.fingerprints import FileDigests, picture_digests
from moiety.train.ledger import identity_of, text_digest
from moiety.vlm.images import Images
from moiety.vlm.rows import Row

RUNS = "runs"
OnProgress = Callable[[str, Progress], None]


def named(on_progress: OnProgress, name: str) -> Callable[[Progress], None]:
    """What is called after each step of the run called `name`."""
    return lambda progress: on_progress(name, progress)


@dataclass(frozen=True)
class Job:
    """What all runs of one comparison have in common.

    Args:
        recipe: The recipe.
        base: Folder of the dense base.
        schemes: Name -> plan.
        pairs: (scheme, seed) of every run that the table may show.
        asked: (scheme, seed) of the runs that this call has to do.
        questions: Rows that every run is scored on.
        floors: Type of question -> accuracies that need no picture.
        images: Where the pictures are.
        context: Settings, command and versions, for the report.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: True: no progress bars.
        start: The dense base as the report describes it.
        texts: Plain texts whose loss says how much language is kept; none for a base that the recipe builds.
        known: Cache: (scheme, seed) -> what its weights depend on. Files must be read to find it.
        seen: Cache: conversation files -> hashes of their pictures.
    """

    recipe: Recipe
    base: Path
    schemes: Mapping[str, PlannedScheme]
    pairs: Sequence[tuple[str, int]]
    asked: Sequence[tuple[str, int]]
    questions: Sequence[Row]
    floors: Mapping[str, Any]
    images: Images
    context: Mapping[str, Any]
    on_progress: OnProgress | None
    quiet: bool
    start: DenseBase = field(default_factory=DenseBase)
    texts: Sequence[str] = ()
    known: dict[tuple[str, int], list[dict[str, Any]]] = field(default_factory=dict)
    seen: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def folder(self, scheme: str, seed: int) -> Path:
        """Folder of one run."""
        return Path(self.recipe.output) / RUNS / run_name(scheme, seed)

    def evaluation(self, scheme: str) -> EvaluateSettings:
        """Settings of the evaluation of one scheme: those of the recipe, changed by those of the variant."""
        settings, variant = self.recipe.evaluate, self.recipe.compare.variants.get(scheme)
        if variant is None or not variant.evaluate:
            return settings
        return EvaluateSettings.model_validate(merged(settings.model_dump(), variant.evaluate))

    def clamp_alpha(self, scheme: str) -> float | None:
        """The value that a variant forces alpha of its evidence experts to when it answers; None: it forces none."""
        variant = self.recipe.compare.variants.get(scheme)
        return None if variant is None else variant.clamp_alpha

    def settings(self, scheme: str, seed: int) -> dict[str, Any]:
        """Everything that the result of one run depends on."""
        evaluate, forced = self.evaluation(scheme), self.clamp_alpha(scheme)
        return {
            "stages": self.training(scheme, seed),
            "evaluate": evaluate.model_dump(mode="json", exclude={"batch_size"})
            | {"files": file_digests(self.recipe.data.root, evaluate.data), "pictures": self.pictures(evaluate.data)}
            | ({PLAIN_TEXT: text_digest(self.texts)} if self.texts else {})
            | ({} if forced is None else {"clamp_alpha": forced}),
        }

    def training(self, scheme: str, seed: int) -> list[dict[str, Any]]:
        """Everything that the weights of one run depend on."""
        if (scheme, seed) not in self.known:
            stages = [stage for stage in self.recipe.stages if stage.sparse]
            moe = self.schemes[scheme].settings
            self.known[scheme, seed] = [
                identity_of(stage, self.recipe, seed, moe, self.base, self.pictures(stage.data)) for stage in stages
            ]
        return self.known[scheme, seed]

    def pictures(self, files: Sequence[str]) -> dict[str, str]:
        """Hashes of the pictures that the rows of `files` may show, computed once for all runs."""
        asked = tuple(files)
        if asked not in self.seen:
            self.seen[asked] = picture_digests(self.recipe.data, asked, FileDigests(self.recipe.output))
        return self.seen[asked]

    def families(self) -> dict[str, list[str]]:
        """Scheme that is trained -> all schemes that answer with its model; itself first.

        Variants that differ only in how they answer share one trained model.
        """
        found: dict[str, list[str]] = {}
        leaders: dict[str, str] = {}
        for name in self.schemes:
            training = json.dumps(self.training(name, 0), sort_keys=True)
            found.setdefault(leaders.setdefault(training, name), []).append(name)
        return found

    def record(self, scheme: str, seed: int) -> RunRecord | None:
        """The result of one run; None while it is not finished.

        Raises:
            ValueError: the result was made with other settings.
        """
        return load_record(self.folder(scheme, seed), self.settings(scheme, seed))

    def records(self) -> dict[tuple[str, int], RunRecord]:
        """All results that exist now, also those of other processes."""
        found = {pair: self.record(*pair) for pair in self.pairs}
        return {pair: record for pair, record in found.items() if record is not None}

    def summary(self) -> Comparison:
        """The comparison as it is now: the runs that were asked for and other finished runs of the recipe."""
        records = self.records()
        known = {*self.asked, *records}
        return Comparison(
            name=self.recipe.name,
            rows=[scheme.row for name, scheme in self.schemes.items() if any(name == other for other, _ in known)],
            reference=self.recipe.moe.scheme,
            records=list(records.values()),
            floors=self.floors,
            planned=[pair for pair in self.pairs if pair in known],
            context=self.context,
            folder=Path(self.recipe.output),
            asked=self.recipe.compare,
            title=self.recipe.title,
            model=self.kept_model(),
            base=self.start,
        )

    def kept_model(self) -> Path | None:
        """Folder of a trained model on the disk: of the reference, else of the first scheme with experts."""
        last = [stage.name for stage in self.recipe.stages if stage.sparse][-1]
        names = [self.recipe.moe.scheme, *(name for name, scheme in self.schemes.items() if scheme.settings)]
        folders = [self.folder(name, seed) / last for name in names for seed in self.recipe.compare.seeds]
        return next((folder for folder in folders if (folder / "config.json").is_file()), None)
