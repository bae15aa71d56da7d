"""What a reader must know to judge a scaling law: the checklist of "(Mis)Fitting" (Li et al. 2025), in our words.

Every answer is read off the fit's own files; what they do not say is answered "not recorded", never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis import show
from analysis.figures.canvas import short
from analysis.origin import Origin
from analysis.page.parts import esc

Row = tuple[str, str]
UNKNOWN = "not recorded"
NAMES = {"own": "β", "shared": "α"}  # what the shifted power law calls the parameters of a form


def checklist(
    hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None, origins: Mapping[str, Origin]
) -> list[str]:
    """Questions and answers, in groups."""
    groups = {
        "The law": form(hparams, laws),
        "The runs": runs(hparams, laws, origins),
        "From runs to points": points(hparams, laws),
        "The fit": fitting(hparams, laws),
        "The check": checks(hparams, laws),
    }
    body = []
    for title, rows in groups.items():
        listed = "".join(f"<dt>{esc(q)}</dt><dd>{esc(a)}</dd>" for q, a in rows)
        body.append(f'<h3>{esc(title)}</h3><dl class="check">{listed}</dl>')
    return body


def form(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> list[Row]:
    said, count = [], []
    if hparams:
        offset = "an offset plus " if "offset" in hparams["laws"].get("shared", {}).get("batch_size", {}) else ""
        said.append(
            f"B* and η*: {offset}the task's intercept times a power of σ, one exponent for all tasks (shared) "
            "or one each "
            "(separate)"
        )
        cells, tasks = len(hparams["best"]), len({b["task"] for b in hparams["best"]})
        count.append(f"B* and η*, each: {tasks} intercepts and 1 shared exponent from {cells} points")
    if laws:
        members = laws["data"][-1].get("members", [])
        listed = (
            "; ".join(f"{m['formula']} (weight {m['weight']:.0%})" for m in members) or "d_min·(1 + (beta/σ)^alpha)"
        )
        said.append(f"D: {listed}; C = {laws['compute']['formula']}; σ* = a power of F")
        fitted = len(laws["fit_utds"])
        levels = len(laws["data"])
        count.append(
            f"D: up to 2 parameters for each of {levels} levels and 1 for all, in each form, from {fitted} σ at "
            "each level"
            if members
            else f"D: 3 parameters for each of {levels} levels, from {fitted} σ each"
        )
    return [
        ("What is the form of the law?", ". ".join(said) + "."),
        (
            "What does it relate?",
            "σ (gradient steps per env step) to batch size, learning rate, env steps until a return level, "
            "FLOPs of critic "
            "training (10·N·B per update, no simulator, no actor) and the budget F = C + δ·D.",
        ),
        ("How many parameters, from how many points?", ". ".join(count) + "."),
        ("Why this form?", "It is the form of the paper (eqs 4.1, 4.2, 4.5 to 4.7)" + reasons(laws)),
    ]


def reasons(laws: Mapping[str, Any] | None) -> str:
    errors = (laws or {}).get("left_out_error") or {}
    if not errors:
        return "; no other was compared."
    told = ", ".join(
        f"{name.replace('_', ' ')} {'not measurable' if e is None else f'{e:.3f}'}" for name, e in errors.items()
    )
    return (
        ", beside others where more than one is listed. Root mean square error of ln D (per unit of ln σ) at "
        "the largest "
        f"fitted σ, predicted without it: {told}."
    )


def runs(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None, origins: Mapping[str, Origin]) -> list[Row]:
    first = laws or hparams
    assert first is not None
    spec = first["provenance"]["spec"]
    fixed = ", ".join(
        f"{k} {v}" for part in ("algorithm", "budget") for k, v in spec.get(part, {}).items() if k != "name"
    )
    asked = "; ".join(f"{part}: {o.runs} runs" for part, o in origins.items())
    n = f"N = {show.number(float(laws['compute']['n_params']))}" if laws else "N does not enter"
    rows = [
        (
            "How many runs, and over which range?",
            (asked or f"{first['provenance']['runs']} runs") + ". The table “What was run” has the ranges.",
        ),
        (
            "What was the same in all of them?",
            f"Learner {spec['algorithm']['name']}; "
            f"{fixed or 'its settings were not recorded with the runs'}. Model size was not varied ({n}).",
        ),
        (
            "Optimiser and initialisation of the runs?",
            "Those of the learner; each seed is its own initialisation and its own stream of data.",
        ),
    ]
    if hparams:
        p = hparams["provenance"]
        said = (
            "In each resample of the seeds the grid value with the fewest env steps to the deciding level "
            f"({p.get('threshold', UNKNOWN)}); {p.get('average', UNKNOWN)} mean over resamples and over the other "
            "hyperparameter. A setting that never reaches the level has no vote."
        )
        compat = f"As the public code does (compat={p.get('compat')}), its known defects included."
        rows.append(("How was the best setting of a cell chosen?", compat if p.get("compat") else said))
    if laws:
        rows.append(
            (
                "Which settings did the runs of D use?",
                f"Batch sizes for C: {laws['compute'].get('batch_size', {}).get('source', UNKNOWN)}; variant "
                f"{laws['provenance'].get('variant', UNKNOWN)}.",
            )
        )
    return rows


def points(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> list[Row]:
    first = laws or hparams
    assert first is not None
    p = first["provenance"]
    levels = ", ".join(f"{t:g}" for t in p["reference"]["thresholds"])
    dropped = sum(len(part.get("dropped", [])) for part in (hparams, laws) if part)
    rows = [
        (
            "What is measured?",
            f"{p['metric']}, scaled by reference “{p['reference']['name']}”; levels J = {levels} of 1000.",
        ),
        (
            "How does a curve become a point?",
            "Mean over seeds, isotonic regression over env steps, first "
            + (
                "crossing between logged steps (interpolated)"
                if p.get("interpolate")
                else "logged step at or above the level"
            )
            + ". Levels of one curve are not independent of each other.",
        ),
        (
            "What happens to curves that never get there?",
            "They are bounds (“more than the last step”), not missing and not a win for anything.",
        ),
        (
            "What was left out?",
            f"{dropped} rows, each listed with its reason under “What was left out”." if dropped else "Nothing.",
        ),
    ]
    if laws:
        rows.insert(
            2,
            (
                "How are tasks combined?",
                f"Each over its own median over the fitted σ, {p.get('average', 'arithmetic')} mean over tasks, "
                "scaled back by the "
                "median of medians; only σ that every task has.",
            ),
        )
    return rows


def fitting(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> list[Row]:
    first = laws or hparams
    assert first is not None
    p = first["provenance"]
    if p.get("compat"):
        return [("How was it fitted?", f"As the public code does (compat={p['compat']}), its known defects included.")]
    draws, seed = (p.get("bootstrap", {}).get(k, UNKNOWN) for k in ("draws", "seed"))
    drawn = "the tasks and of their seeds" if p.get("bootstrap", {}).get("tasks") else "the seeds"
    rows = [
        (
            "Loss and weighting?",
            "Squared error of logarithms, summed; every point counts the same. A bound "
            "counts only where the law lies below it.",
        ),
    ]
    if laws:
        agree = laws["data"][-1].get("starts_agree")
        loss = laws["data"][-1].get("loss")
        rows.append(
            (
                "Optimiser, initial values, convergence?",
                "B*, η*, σ*(F): linear least squares in closed form. D: a grid of starts, then Levenberg–Marquardt "
                "with analytic "
                "gradients within bounds; "
                + (
                    f"{agree:.0%} of the best starts end at the same loss ({loss:.3g})."
                    if agree is not None
                    else "agreement of starts not recorded."
                ),
            )
        )
        bounded = [
            f"J = {d['threshold']:g} ({', '.join(NAMES.get(n, n) for n in d['at_bound'])})"
            for d in laws["data"]
            if d.get("at_bound")
        ]
        rows.append(
            (
                "Are the parameters identified?",
                f"At a bound, so not fixed by the data: {'; '.join(bounded)}."
                if bounded
                else "No parameter of the paper's form ended at a bound; read the intervals beside it.",
            )
        )
    else:
        rows.append(
            (
                "Optimiser, initial values, convergence?",
                "Linear least squares in logarithms, in closed form: there is one minimum.",
            )
        )
    rows.append(
        (
            "How uncertain is it?",
            f"{draws} joint resamples of {drawn} (bootstrap seed {seed}), carried through every step: crossings, "
            "best settings, "
            "laws, budget. Points also scatter about the laws by what the seeds do not explain. Intervals are the "
            "central 95 %.",
        )
    )
    if laws and laws.get("scatter") is not None:
        drift = laws.get("drift")
        rows.append(
            (
                "How wrong may the form itself be?",
                f"Scatter of ln D about the law beyond the seeds': {laws['scatter']:.3f}. "
                + (
                    f"Outside the fitted σ, expected error of ln D per unit of ln σ: {drift:.2f}."
                    if drift is not None
                    else "Outside the fitted σ it could not be measured."
                ),
            )
        )
    return rows


def checks(hparams: Mapping[str, Any] | None, laws: Mapping[str, Any] | None) -> list[Row]:
    rows = []
    if laws:
        held = laws.get("holdout", [])
        utds = sorted({h["utd"] for h in held})
        rows.append(
            (
                "What was held out?",
                (f"σ = {', '.join(utds)}, from every fit and every median." if held else "No σ.")
                + f" {sum(bool(q['held_out']) for q in laws.get('budget', {}).get('points', []))} budgets, "
                "from σ*(F).",
            )
        )
        rows.append(
            (
                "Was it compared with something simpler?",
                "Settings held constant over σ, where the grid holds them: see “Against constant settings”.",
            )
        )
    rows += [
        (
            "Was it repeated with other choices?",
            "Not by this page: another metric, average, level or law is another fit under another name.",
        ),
        (
            "Can it be reproduced?",
            "The commands, digests and versions under “How to reproduce” give the same bytes from the same records.",
        ),
    ]
    delta = (laws or {}).get("budget", {}).get("delta")
    if delta is not None:
        rows.append(
            (
                "Which price of data does σ* rest on?",
                f"One env step counts as {short(delta)} FLOPs; another δ gives another σ*.",
            )
        )
    return rows
