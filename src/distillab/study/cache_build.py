"""`distillab cache build`: plan the parts that a recipe needs, and build them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distillab.config.cache import CacheConfig, KindConfig
from distillab.config.methods import described
from distillab.config.run import RunRecipe
from distillab.config.study import StudyRecipe
from distillab.config.teacher import TeacherConfig
from distillab.errors import ConfigError, TokenizerMismatch
from distillab.files import require_space
from distillab.models.loading import load_config
from distillab.runs.answers import make_answers, read_answers
from distillab.runs.dates import dated
from distillab.runs.inputs import RunInputs, load_inputs
from distillab.runs.lock import held, worker_lock
from distillab.runs.signals import CacheJob, arms_kinds, bytes_before_loading, held_out_kinds, require_given, write_part
from distillab.runs.teacher import RunTeacher
from distillab.runs.teacher_view import TeacherView
from distillab.study.plan import StudyPlan
from distillab.study.ray_workers import RayWorkers
from distillab.study.teachers import one_teacher_each, only_teacher
from distillab.teachers.served.journal import FOLDER as SERVED
from distillab.teachers.served.journal import file_of
from distillab.teachers.stored.answers import store_is_complete
from distillab.teachers.stored.location import Part, keep_tokenizer, part_of


@dataclass(frozen=True)
class CacheBuild:
    """One cache location and its parts, all from one teacher.

    Attributes:
        inputs: of a run that reads it.
        settings: how it is stored.
        location: the folder.
        jobs: signals on rows that are known in advance.
        text: whether the teacher's answers are stored.
        answers: kinds for the rows with the teacher's answers.
        served_in: where the answers of its server are kept; default: in the run's folder.
    """

    inputs: RunInputs
    settings: CacheConfig
    location: Path
    jobs: tuple[CacheJob, ...]
    text: bool = False
    answers: tuple[KindConfig, ...] = ()
    served_in: Path | None = None

    @property
    def folders(self) -> list[Path]:
        """The parts, in the order in which they are made."""
        made = [job.folder for job in self.jobs]
        wanted: list[tuple[Part, bool]] = [("text", self.text), ("answers", bool(self.answers))]
        return made + [Path(part_of(str(self.location), part)) for part, it_is in wanted if it_is]


def cache_builds(recipe: RunRecipe | StudyRecipe) -> list[CacheBuild]:
    """Plan what to store for a recipe; for a study one location a teacher, where `distillab compare` reads it.

    The teachers' answers, and signals on them, are made by the study itself.

    Raises:
        ConfigError: nothing that could be stored is read, or the teacher has no weights.
        TokenizerMismatch: the student's ids mean other tokens to the teacher.
    """
    arms = recipe.arms if isinstance(recipe, StudyRecipe) else ()
    if any(one.teacher_correction is not None for one in (recipe, *arms)):
        raise ConfigError(
            "A corrected teacher exists after `distillab train` or `compare` has made it.",
            where="teacher_correction",
            fix="leave cache build out: a study caches the corrected teacher's signals itself; or name the teacher in "
            "OUTPUT/corrected_teachers as teacher.path",
        )
    if recipe.data.streaming is not None:
        raise ConfigError(
            "A cache is of rows that are known before.",
            where="data.streaming",
            fix="remove streaming; or train without a cache, from the teacher itself",
        )
    recipe = dated(recipe, builds=True)
    if isinstance(recipe, StudyRecipe):
        return _of_study(recipe)
    if recipe.teachers is not None:
        raise ConfigError(
            "The recipe of a run has several teachers, and its cache is of one.",
            facts=list(recipe.teachers),
            fix="make it a study, which caches the signals of each teacher itself",
        )
    return [_of_run(recipe)]


def _of_run(recipe: RunRecipe) -> CacheBuild:
    settings = recipe.cache or CacheConfig()
    recipe = recipe.model_copy(update={"teacher": _with_weights(recipe.teacher)})
    location = Path(settings.folder) if settings.folder else Path(recipe.output) / "cache"
    method = recipe.resolved()
    on_answers = method.answers == "teacher"
    if settings.kinds is None:
        kinds: tuple[KindConfig, ...] | None = None
        text = on_answers
        if method.own is not None:
            raise _nothing("The teacher reads what the student is yet to write, which no cache can hold.", recipe)
        if method.reads_signals and not method.can_be_cached:
            raise _nothing("Attention maps cannot be stored: they grow with the square of a row.", recipe)
        if not (method.reads_signals or text):
            raise _nothing("The recipe's method reads nothing of a teacher.", recipe)
    else:
        kinds = tuple(kind for kind in settings.kinds if kind.kind != "text")
        text = len(kinds) < len(settings.kinds)
        if on_answers and kinds and not text:
            raise ConfigError(
                "The method trains on the teacher's answers, and signals on them need the answers.",
                where="cache.kinds",
                fix="add {kind: text}",
            )
    inputs = load_inputs(recipe)
    inputs.admit()
    require_given(inputs)
    teacher = inputs.require_teacher()
    if kinds is None:
        kinds = arms_kinds([inputs])
    if kinds and inputs.shared_width == 0 and not teacher.own_tokens:
        raise _other_tokens(teacher)
    train, held_out = inputs.splits.sources
    jobs = []
    if kinds and not on_answers:
        rows = teacher.rows(inputs.train)
        jobs.append(CacheJob(location, "train", kinds, rows, train, teacher, teacher.train_view))
    wanted, view = held_out_kinds(teacher) or kinds, teacher.eval_view
    if kinds and inputs.shared_width and not teacher.own_tokens:
        jobs.append(CacheJob(location, "held_out", wanted, inputs.teacher_eval_rows, held_out, teacher, view))
    return CacheBuild(inputs, settings, location, tuple(jobs), text, kinds if on_answers else ())


def _of_study(recipe: StudyRecipe) -> list[CacheBuild]:
    if recipe.teacher_signals == "online":
        raise ConfigError(
            "The study reads no cache.", where="teacher_signals: online", fix="set teacher_signals: cached"
        )
    study = StudyPlan(recipe)
    caches = study.caches
    builds: dict[Path, CacheBuild] = {}
    for arm in one_teacher_each(recipe, recipe.arms):
        if only_teacher(recipe, arm).cache is not None:
            continue
        inputs, stored = study.inputs(arm), caches.stored(arm)
        inputs.admit()
        require_given(inputs)
        parts: list[Part] = []
        if stored.train is not None and arm.resolved().answers == "dataset":
            parts.append("train")
        if stored.held_out is not None:
            parts.append("held_out")
        for job in (caches.job(arm, part) for part in parts):
            known = builds.get(job.location)
            others = known.jobs if known else ()
            if job.folder not in [other.folder for other in others]:
                served_in = Path(recipe.output) / SERVED / job.location.name
                builds[job.location] = CacheBuild(
                    inputs, recipe.cache, job.location, (*others, job), served_in=served_in
                )
    if not builds:
        raise ConfigError("No arm of the study reads what could be stored.", fix="add an arm such as logits")
    return list(builds.values())


def require_room(builds: Sequence[CacheBuild]) -> None:
    """Check, before any weight is loaded, that the missing parts fit onto the disk.

    Raises:
        StorageError: it does not.
    """
    for item in builds:
        open_parts = [job for job in item.jobs if not job.built.is_file()]
        needed = sum(bytes_before_loading(part) for part in open_parts)
        already = sum(file.stat().st_size for part in open_parts for file in part.folder.glob("shards/*"))
        if needed > already:
            require_space(
                item.location,
                needed - already,
                what="the cache",
                otherwise="store less: a smaller kind, fewer layers, store: int8 (see `distillab cache estimate`)",
            )


def build_share(recipe: RunRecipe | StudyRecipe, *, worker: int, workers: int) -> list[CacheBuild]:
    """Build the missing parts of all locations of a recipe, and return these; as `cache_builds` and `run_build`."""
    builds = cache_builds(recipe)
    require_room(builds)
    for item in builds:
        run_build(item, worker=worker, workers=workers)
    return builds


def build_on_cluster(recipe: RunRecipe | StudyRecipe) -> list[CacheBuild]:
    """Build the missing parts of all locations of a recipe on a cluster, a share on each worker, and return these.

    Raises:
        As `build_share`, `RayWorkers` and `RayWorkers.run`.
    """
    recipe = dated(recipe, builds=True)  # a build over midnight has one date
    builds = cache_builds(recipe)
    number, gpus = (recipe.workers, recipe.gpus_per_run) if isinstance(recipe, StudyRecipe) else (None, None)
    with RayWorkers(builds[0].location, number=number, gpus=gpus) as workers:
        share = partial(build_share, recipe, workers=workers.number)
        # signals on the teacher's answers are made when all workers have finished the answers
        for _ in range(2 if any(item.answers for item in builds) else 1):
            workers.run([partial(share, worker=worker) for worker in range(workers.number)])
    return builds


def run_build(item: CacheBuild, *, worker: int, workers: int) -> None:
    """Build the missing parts of one location. It resumes after an interruption.

    Args:
        worker, workers: this process makes the shards with number % workers == worker.
    Raises:
        StorageError: the disk is full.
        CacheMismatch: the folder holds a cache of another identity.
        ConfigError: another process makes the same share.
    """
    with ExitStack() as holds:
        for folder in item.folders:
            holds.enter_context(held(folder, worker_lock(worker, workers)))
        teacher = RunTeacher(item.inputs, served_in=item.served_in, file=file_of(worker, workers))
        for job in item.jobs:
            write_part(job, teacher=teacher.source(), settings=item.settings, worker=worker, workers=workers)
        if item.text:
            _build_text(item, teacher, worker=worker, workers=workers)


def _build_text(item: CacheBuild, teacher: RunTeacher, *, worker: int, workers: int) -> None:
    """Record the teacher's answers, and its signals on them."""
    inputs, settings = item.inputs, item.settings
    view = inputs.require_teacher()
    text = Path(part_of(str(item.location), "text"))
    make_answers(
        inputs,
        teacher.generator(text),
        text,
        rows_per_shard=settings.rows_per_shard,
        compression=settings.compression,
        worker=worker,
        workers=workers,
    )
    config = load_config(view.spec.config, revision=view.spec.revision)
    keep_tokenizer(item.location, view.reader.tokenizer, config)
    # rows with the answers are known when all workers have finished theirs
    if not item.answers or not store_is_complete(text):
        return
    rows = view.rows(read_answers(inputs, str(text)).split)
    source = f"the teacher's answers to {inputs.splits.sources[0]}"
    job = CacheJob(item.location, "answers", item.answers, rows, source, view, view.train_view)
    write_part(job, teacher=teacher.source(), settings=settings, worker=worker, workers=workers)


def _with_weights(teacher: TeacherConfig | None) -> TeacherConfig:
    """Return the teacher without the cache that a run may already read: that is what is built."""
    if teacher is None or (teacher.path is None and teacher.server is None):
        raise ConfigError(
            "A cache is built from a teacher's signals, and the recipe names no teacher with weights.",
            fix="add teacher: {path: …}",
        )
    return teacher.model_copy(update={"cache": None})


def _nothing(rule: str, recipe: RunRecipe) -> ConfigError:
    return ConfigError(
        rule,
        facts=[f"method {described(recipe.method, recipe.resolved())}"],
        fix="name what is to be stored: cache: {kinds: [{kind: top_k}]}, or use another method",
    )


def _other_tokens(teacher: TeacherView) -> TokenizerMismatch:
    return TokenizerMismatch(
        "The student's ids mean other tokens to the teacher, so its signals would be for other texts.",
        facts=[teacher.contract.reason],
        fix="store its answers, which every tokenizer can read: cache: {kinds: [{kind: text}]}",
    )
