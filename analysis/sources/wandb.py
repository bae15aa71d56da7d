"""source=wandb: runs that logged to W&B, from the service or from the folders of an offline machine.

A mapping in the config says which of a run's keys are our words; nothing is guessed, nothing is chosen by outcome.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from analysis.sources import Found, Track
from analysis.sources.tidy import binned, curve
from analysis.sources.wandb_files import from_files, offline
from analysis.sources.wandb_logged import Array, Logged
from analysis.sources.wandb_service import Patience, Service, line, of_wandb
from rlscale.typed import Mistake, convert, typed

Dropped = list[tuple[str, str]]
Made = tuple[list[Found], Dropped, list[list[str]]]  # of a run: its seeds, what was left out, each seed's history keys
LARGEST_DENOMINATOR = 256  # of a σ that a config holds as a float: 1/4, 1/3 and 1/128, but not 333/1000
LONG = re.compile(r".{60}|[eE][-+]?\d{4}")
CLOSE = 1e-9  # relative: how near such a float must be to its fraction


@dataclass(frozen=True)
class ConfigKeys:
    """Our words → keys of a run's config, nested ones dotted."""

    task: str
    utd: str
    batch_size: str
    learning_rate: str
    seed: str | None
    algorithm: Mapping[str, Any] | None


@dataclass(frozen=True)
class HistoryKeys:
    """Our columns → keys of a run's history."""

    env_step: str
    train_return: str | None
    eval_return: str | None
    metrics: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        if self.train_return is None and self.eval_return is None:
            raise ValueError("train_return=null, eval_return=null: name at least one key that holds a return")
        if taken := {"env_step", "train_return", "eval_return"} & set(self.metrics or ()):
            raise ValueError(f"metrics.{min(taken)}: this is a column already; call the metric something else")

    @property
    def columns(self) -> dict[str, str]:
        returns = {"train_return": self.train_return, "eval_return": self.eval_return}
        metrics = {str(ours): str(key) for ours, key in (self.metrics or {}).items()}
        return {ours: key for ours, key in returns.items() if key is not None} | metrics


@dataclass(frozen=True)
class Wandb:
    """conf/source/wandb.yaml."""

    entity: str | None
    project: str | None
    tags: tuple[str, ...]
    filters: Mapping[str, Any] | None
    folder: str | None
    config: Mapping[str, Any]
    history: Mapping[str, Any]
    seeds: str | None
    states: tuple[str, ...] | None
    shortest: int
    every: int | None
    threads: int
    tries: int
    wait_s: float

    def __post_init__(self) -> None:
        if (self.project is None) == (self.folder is None):
            raise ValueError(
                f"project={self.project}, source.folder={self.folder}: give one of the two, "
                "the project to read from the service or the folder to read .wandb files from"
            )
        if self.folder is not None and self.filters:
            raise ValueError(
                f"filters={dict(self.filters)}: only the service takes them; with a folder give source.tags"
            )
        for key in ("threads", "tries", "every"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)}: give at least 1")
        if self.wait_s < 0 or self.shortest < 0:
            raise ValueError(f"wait_s={self.wait_s}, source.shortest={self.shortest}: neither can be below 0")
        if self.seeds is not None:
            try:
                groups = set(re.compile(self.seeds).groupindex)
            except re.error as error:
                raise ValueError(f"seeds={self.seeds}: this is no regular expression ({error}); mend it") from None
            if not {"seed", "metric"} <= groups:
                raise ValueError(rf"seeds={self.seeds}: it needs two groups, as seed(?P<seed>\d+)/(?P<metric>.+) has")
        elif self.config.get("seed") is None:
            raise ValueError("config.seed=null: name the key that holds the seed, or source.seeds for several in a run")
        self._config_keys, self._history_keys  # noqa: B018 (a wrong mapping is found before anything is fetched)

    @cached_property
    def _config_keys(self) -> ConfigKeys:
        return typed(ConfigKeys, self.config, "source.config")

    @cached_property
    def _history_keys(self) -> HistoryKeys:
        return typed(HistoryKeys, self.history, "source.history")

    def read(self, track: Track) -> tuple[list[Found], Dropped]:
        """Every seed of every run that is meant, in the order in which the runs were made."""
        found: list[Found] = []
        dropped: Dropped = []
        missed: list[set[str]] = []  # per seed: the mapped history keys that it lacks
        seen: set[str] = set()
        with self._runs() as (runs, count):
            for ones, odd, keys in track(runs, count, "reading W&B runs"):
                found += ones
                dropped += odd
                missed += [set(self._history_keys.columns.values()) - set(known) for known in keys]
                seen = seen.union(*keys)
        if missed and (nowhere := set.intersection(*missed)):
            key = min(nowhere)
            ours = next(ours for ours, theirs in self._history_keys.columns.items() if theirs == key)
            raise Mistake(f"source.history: {ours} is mapped to {key}, which no run logged; {absent(key, seen)}")
        if not found:
            what, why = dropped[0] if dropped else ("the runs", "none was meant")
            raise Mistake(f"source=wandb: none of {len(dropped)} can be used; {what}: {why}")
        return found, dropped

    def _made(self, run: Logged | tuple[str, str]) -> Made:
        """What a run becomes; its history is not kept, only what is mapped."""
        if isinstance(run, tuple):
            return [], [run], []
        found: list[Found] = []
        dropped: Dropped = [(run.origin, what) for what in run.odd]
        keys = []
        for seed, history in self._seeds(run.history):
            origin = run.origin if seed is None else f"{run.origin}, seed {seed}"
            keys.append(list(history))
            try:
                one, odd = self._one(run, seed, history, origin)
            except Mistake as mistake:
                dropped.append((origin, str(mistake)))
            else:
                found.append(one)
                dropped += [(origin, what) for what in odd]
        return found, dropped, keys

    @contextmanager
    def _runs(self) -> Iterator[tuple[Iterable[Made], int]]:
        """What the runs become, one after the other; and how many there are."""
        if self.folder is not None:
            files = offline(Path(self.folder).expanduser(), self.tags)
            yield (self._made(one) for item in files.items() for one in self._from_files(*item)), len(files)
            return
        assert self.project is not None
        patience = Patience(self.tries, self.wait_s)
        service = Service(self.entity, self.project, self.tags, dict(self.filters or {}), patience)
        runs = service.runs()
        pool = ThreadPoolExecutor(self.threads)
        try:
            yield pool.map(lambda run: self._made(self._from_service(service, run)), runs), len(runs)
        finally:
            patience.stop.set()  # after a mistake or Ctrl-C nobody sleeps on
            pool.shutdown(cancel_futures=True)

    def _from_files(self, run: str, paths: list[Path]) -> Iterator[Logged | tuple[str, str]]:
        try:
            logged, tags = from_files(run, paths)
        except Mistake as mistake:
            yield run, str(mistake)
            return
        if not self.tags or tags & set(self.tags):
            unwanted = self._unwanted(logged.state)
            yield (run, unwanted) if unwanted else logged

    def _from_service(self, service: Service, run: Any) -> Logged | tuple[str, str]:
        if unwanted := self._unwanted(run.state):
            return str(run.id), unwanted
        try:
            return service.logged(run)
        except Exception as error:  # this run only: deleted meanwhile, say
            if not of_wandb(error):
                raise
            return str(run.id), f"W&B does not give its history: {line(error)}"

    def _unwanted(self, state: str) -> str | None:
        if self.states is None or state in self.states:
            return None
        return f"its state is {state}, not one of source.states=[{','.join(self.states)}]"

    def _seeds(self, history: Mapping[str, Array]) -> Iterator[tuple[int | None, Mapping[str, Array]]]:
        """(seed, its history by the key of the metric); None where the config holds the seed, or no key has one."""
        own: dict[int, dict[str, Array]] = {}
        shared: dict[str, Array] = {}
        for key, column in history.items():
            if self.seeds is not None and (match := re.fullmatch(self.seeds, key)):
                own.setdefault(int(match["seed"]), {})[match["metric"]] = column
            else:
                shared[key] = column
        yield from ((seed, shared | own[seed]) for seed in sorted(own)) if own else [(None, shared)]

    def _one(self, run: Logged, seed: int | None, history: Mapping[str, Array], origin: str) -> tuple[Found, list[str]]:
        """This seed, and what of it was left out. Raises Mistake if it is of no use."""
        if self.seeds is not None and seed is None:
            raise Mistake(f"no key of its history is like source.seeds={self.seeds}; {absent('', history)}")
        keys = self._history_keys
        if keys.env_step not in history:
            raise Mistake(
                f"it never logged {keys.env_step} (source.history.env_step); {absent(keys.env_step, history)}"
            )
        columns = {ours: history[key] for ours, key in keys.columns.items() if key in history}
        if not {"train_return", "eval_return"} & set(columns):
            wanted = str(keys.train_return or keys.eval_return)
            raise Mistake(f"it never logged {wanted} (source.history); {absent(wanted, history)}")
        useful = np.any([np.isfinite(column) for column in columns.values()], axis=0)  # other rows are others' business
        steps = history[keys.env_step][useful]
        wrong = steps[(steps < 0) | (steps != np.round(steps)) & ~np.isnan(steps) | (steps >= 2**53)]
        if wrong.size:
            raise Mistake(f"{keys.env_step}={wrong[0]:g} (source.history.env_step): this is not a whole env step")
        words = self._words(run.config, seed)
        columns = {ours: column[useful] for ours, column in columns.items()}
        if self.every is not None:
            steps, columns = binned(steps, columns, self.every)
        table, odd = curve(steps, columns)
        if table is None:
            raise Mistake("; ".join(odd))
        last = int(table["env_step"].iloc[-1])
        if last < self.shortest:
            raise Mistake(f"{run.state} at env step {last}, before source.shortest={self.shortest}")
        return Found(**words, curve=table, origin=origin), odd

    def _words(self, config: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        """What the run's config holds, in our words. Raises Mistake naming the key."""
        keys = self._config_keys
        fields = {
            str(ours): _plain(_of(config, str(key), f"algorithm.{ours}"), str(key))
            for ours, key in (keys.algorithm or {}).items()
        }
        if seed is None:
            seed = _number(config, str(keys.seed), "seed", int)
        if not 0 <= seed < 2**31:
            raise Mistake(f"seed={seed}: a seed is a whole number from 0 to {2**31 - 1}")
        batch_size = _number(config, keys.batch_size, "batch_size", int)
        rate = _number(config, keys.learning_rate, "learning_rate", float)
        for key, number in ((keys.batch_size, batch_size), (keys.learning_rate, rate)):
            if number <= 0:
                raise Mistake(f"{key}={number}: it must be above 0")
        return {
            "task": convert(_of(config, keys.task, "task"), str, keys.task),
            "utd": sigma(_of(config, keys.utd, "utd"), keys.utd),
            "batch_size": batch_size,
            "learning_rate": rate,
            "seed": seed,
            "algorithm_fields": fields,
        }


def _of(config: Mapping[str, Any], key: str, ours: str) -> Any:
    if key not in config:
        raise Mistake(f"its config has no {key} (source.config.{ours}); {absent(key, config)}")
    return config[key]


def _plain(value: Any, key: str) -> Any:
    """A value that can name a learner: plain, finite, hashable."""
    if isinstance(value, list | tuple):
        return tuple(_plain(one, key) for one in value)
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise Mistake(f"{key}={value} (source.config.algorithm): this cannot tell learners apart; take a number or a word")


def _number(config: Mapping[str, Any], key: str, ours: str, kind: type) -> Any:
    value = _of(config, key, ours)
    return convert(_short(value, key), kind, key)


def _short(value: Any, key: str) -> Any:
    """`value` if its exact form is no longer than it looks: "1e999999999" would be a whole number too."""
    if not LONG.search(str(value)):
        return value
    raise Mistake(f"{key}={str(value)[:40]}: this is no number of a run")


def sigma(value: Any, key: str) -> Fraction:
    """The exact σ that a config means: 2, "1/3", 0.25 → 1/4. Raises Mistake for a float that is no simple fraction."""
    exact: Fraction = convert(_short(value, key), Fraction, key)
    simple = exact if "/" in str(value) else exact.limit_denominator(LARGEST_DENOMINATOR)
    if exact <= 0:
        raise Mistake(f"{key}={value}: σ must be above 0")
    if abs(simple - exact) > CLOSE * exact:
        raise Mistake(f'{key}={value}: this is no simple fraction (nearest {simple}); log it as text such as "1/3"')
    return simple


def absent(key: str, keys: Iterable[str]) -> str:
    """The mend for a key that is not there: the nearest one, and what there is."""
    there = sorted(k for k in keys if not k.startswith("_") or k == "_step")
    close = difflib.get_close_matches(key, there, n=1) or [k for k in there if key and key.lower() in k.lower()]
    listed = ", ".join(there[:12]) + (f", … ({len(there)} in all)" if len(there) > 12 else "")
    return (f"did you mean {close[0]}? " if close else "") + f"there are {listed or 'none'}"
