"""Door: one self-contained HTML page about a fit: figures, the tables behind them, and what was left out.

python -m analysis.report name=gym-r1
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig

from analysis import emit, plots, show
from analysis.batch import one_per_cell
from analysis.blend import Draws
from analysis.curves import Crossings, Reference, crossings
from analysis.hparams import read
from analysis.plan import frontiers, read_fit
from analysis.records import Select, load
from analysis.uncertainty import Bootstrap
from rlscale.door import door
from rlscale.store import study_root
from rlscale.typed import typed

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body {{ font: 15px/1.5 system-ui, sans-serif; color: #23272e; }}
 body {{ max-width: 72rem; margin: 2rem auto; padding: 0 1.2rem; }}
 h1 {{ font-size: 1.7rem; margin-bottom: .2rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.4rem; }}
 p.lead {{ font-size: 1.05rem; }} p.small, td, th {{ font-size: .86rem; }} .small {{ color: #59606b; }}
 img {{ max-width: 100%; height: auto; display: block; margin: .6rem 0; }}
 .wide {{ overflow-x: auto; }}
 table {{ border-collapse: collapse; margin: .6rem 0 1.2rem; }}
 th {{ text-align: left; border-bottom: 2px solid #c9ced6; padding: .25rem .8rem .25rem 0; white-space: nowrap; }}
 td {{ border-bottom: 1px solid #e6e8eb; padding: .22rem .8rem .22rem 0; font-variant-numeric: tabular-nums; }}
 code {{ background: #f2f4f6; padding: .05rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }}
 details > summary {{ cursor: pointer; }}
</style></head><body>
{body}
</body></html>
"""


@dataclass(frozen=True)
class Config:
    """conf/analysis/report.yaml."""

    name: str


def main(cfg: DictConfig) -> None:
    config = read(Config, cfg)
    root = study_root()
    folder = root / "fits" / config.name
    parts = {p: read_fit(root, config.name, p) for p in ("hparams", "laws") if (folder / f"{p}.json").exists()}
    if not parts:
        read_fit(root, config.name, "hparams")
    body = [f"<h1>{html.escape(config.name)}</h1>", _summary(parts)]
    if "hparams" in parts:
        body += _hparams_part(parts["hparams"])
    if "laws" in parts:
        with np.load(folder / "laws_draws.npz") as arrays:
            draws = Draws.from_arrays(arrays)
        body += _laws_part(parts["laws"], draws)
    body += _curves_part(root, parts)
    body += _left_out(parts)
    path = folder / "report.html"
    emit.write({path: PAGE.format(title=f"{html.escape(config.name)} · rlscale", body="\n".join(body))}, replace=True)
    show.say(f"report: {path.resolve()}")


def _summary(parts: Mapping[str, Any]) -> str:
    lines = []
    if "hparams" in parts:
        for quantity, law in parts["hparams"]["laws"]["shared"].items():
            symbol = "B*" if quantity == "batch_size" else "η*"
            lines.append(f"{symbol} ∝ σ<sup>{law['exponent']:.2f}</sup> {_span(law['exponent_ci95'])}")
    if "laws" in parts:
        laws = parts["laws"]
        top = laws["data"][-1]
        lines.append(
            f"D<sub>{top['threshold']:g}</sub> = {show.number(top['d_min'])} · "
            f"(1 + ({top['beta']:.3g}/σ)<sup>{top['alpha']:.2f}</sup>) env steps"
        )
        if laws["budget"]["exponent"] is not None:
            lines.append(f"σ* ∝ F<sup>{laws['budget']['exponent']:.2f}</sup> {_span(laws['budget']['exponent_ci95'])}")
    first = next(iter(parts.values()))["provenance"]
    spec = first["spec"]
    what = f"{spec['algorithm']['name']} on {spec['benchmark']['name']}, "
    what += f"returns normalised by reference <code>{first['reference']['name']}</code>"
    commands = "".join(
        f"<br><code>{html.escape(p['provenance']['command'])}</code> ({p['provenance']['runs']} runs)"
        for p in parts.values()
    )
    lead = " &nbsp;·&nbsp; ".join(lines)
    return f'<p class="lead">{lead}</p><p class="small">{what}. 95 % intervals in brackets.{commands}</p>'


def _hparams_part(fit: Mapping[str, Any]) -> list[str]:
    rows = [
        [b["task"], b["utd"], b["batch_size"], show.span(b["batch_size_ci95"]),
         b["learning_rate"], show.span(b["learning_rate_ci95"]),
         f"{b['threshold']:g}", b["reached"], f"{b['share']['batch_size']:.0%}"]
        for b in fit["best"]
    ]  # fmt: skip
    grouped: dict[tuple[str, str], dict[str, list[str]]] = {}
    for p in fit["proposals"]:
        cell = grouped.setdefault((p["task"], p["utd"]), {})
        cell[p["variant"]] = [str(p["batch_size"]), show.number(p["learning_rate"])]
    variants = list(dict.fromkeys(p["variant"] for p in fit["proposals"]))
    proposed = [[*key, *(word for v in variants for word in cell.get(v, ["–", "–"]))] for key, cell in grouped.items()]
    return [
        "<h2>Best batch size and learning rate</h2>",
        image(plots.best_values(fit), "best batch size and learning rate against σ"),
        '<p class="small">Points: the grid value that needs the fewest env steps, averaged over resamples of seeds and '
        "over the other hyperparameter; hollow where some resamples miss the level. Lines: the fitted laws.</p>",
        fold("best measured values", ["task", "σ", "B", "95 %", "η", "95 %", "level", "reached", "votes cast"], rows),
        fold("proposed settings", ["task", "σ", *(f"{v} {q}" for v in variants for q in "Bη")], proposed),
    ]


def _laws_part(laws: Mapping[str, Any], draws: Draws) -> list[str]:
    rows = [
        [f"{d['threshold']:g}", d["d_min"], show.span(d["ci95"]["d_min"]), d["beta"], show.span(d["ci95"]["beta"]),
         d["alpha"], show.span(d["ci95"]["alpha"]), ", ".join(d["at_bound"])]
        for d in laws["data"]
    ]  # fmt: skip
    budget = laws["budget"]
    points = [
        [f"{p['threshold']:g}", p["budget"], p["utd"], show.span(p["utd_ci95"]), p["predicted_utd"],
         p["data"], p["compute"], f"{p['data_share']:.0%}", p["held_out"], p["at_end"]]
        for p in budget["points"]
    ]  # fmt: skip
    held = [
        [f"{h['threshold']:g}", h["utd"], h["predicted"], show.span(h["interval95"]),
         h["observed"] if h["reached"] else f"> {show.number(h['at_least'])}",
         f"{h['signed_error']:+.1%}" if h["reached"] else "–",
         "extrapolation" if h["extrapolation"] else "interpolation"]
        for h in laws["holdout"]
    ]  # fmt: skip
    body = [
        "<h2>Data against σ</h2>",
        image(plots.data_laws(laws, draws), "data until each return level against σ, with fitted laws"),
        fold("fitted parameters", ["J", "D_min", "95 %", "β", "95 %", "α", "95 %", "at a bound"], rows),
        "<h2>Predicted against measured</h2>",
        image(plots.predicted_measured(laws), "predicted against measured data"),
        table(["J", "σ", "predicted", "95 %", "measured", "error", ""], held)
        if held
        else '<p class="small">No σ was held out (holdout=[…] of analysis.laws): this is the fit to its own data.</p>',
        "<h2>Compute against data</h2>",
        image(plots.compute_data(laws, frontiers(laws, laws["extend"])), "compute against data for each return level"),
        f'<p class="small">C = {html.escape(laws["compute"]["formula"])}, '
        f"N = {show.number(float(laws['compute']['n_params']))}; "
        f"batch sizes from {html.escape(laws['compute']['batch_size']['source'])}.</p>",
        "<h2>The best σ for a budget</h2>",
        image(plots.budget(laws), "cheapest σ against budget"),
        fold(
            "optima for each return level",
            ["J", "F", "σ*", "95 %", "σ*(F)", "D", "C", "δ·D / F", "held out", "end of range"],
            points,
        ),
    ]
    return body


def _curves_part(root: Path, parts: Mapping[str, Any]) -> list[str]:
    """Learning curves of the fitted sweep, or of the grid's best setting at each (task, σ), from the records."""
    part = parts.get("laws") or parts["hparams"]
    p = part["provenance"]
    study = load(root, typed(Select, p["select"], "select"))
    reference = typed(Reference, p["reference"], "reference")
    few = Bootstrap(20, p["bootstrap"]["seed"])  # the figure shows the mean over all seeds, so the draws do not matter
    crossed = crossings(study, reference, p["metric"], few, show.tracked)
    crossed = (
        one_per_cell(crossed, parts.get("hparams"), p["variant"], part["name"])[0]
        if "laws" in parts
        else _best_cells(crossed)
    )
    which = "the runs behind the laws" if "laws" in parts else "the best setting of the grid at each task and σ"
    return [
        "<h2>Learning curves</h2>",
        image(plots.learning_curves(crossed), "learning curves"),
        f'<p class="small">{which}: mean over seeds (faint), isotonic fit (bold), first crossing of each level (dots). '
        f"Metric: {p['metric']}; 0 and 1000 are the reference's floor and ceiling.</p>",
    ]


def _best_cells(crossed: Crossings) -> Crossings:
    keep = np.zeros(len(crossed.cells), dtype=bool)
    for _, at in crossed.cells.groupby(["task", "utd"]):
        order = [
            tuple(-np.isfinite(crossed.point[i][::-1]).astype(int)) + tuple(crossed.point[i][::-1]) for i in at.index
        ]
        keep[at.index[min(range(len(order)), key=lambda k: order[k])]] = True
    return crossed.take(keep)


def _left_out(parts: Mapping[str, Any]) -> list[str]:
    body = ["<h2>Notes, and what was left out</h2>"]
    for part, fit in parts.items():
        notes = "".join(f"<li>{html.escape(n)}</li>" for n in fit["notes"])
        body.append(
            f"<p>analysis.{part}: {len(fit['notes'])} notes, {len(fit['dropped'])} left out</p><ul>{notes}</ul>"
        )
        if fit["dropped"]:
            body.append(
                fold(
                    f"left out by analysis.{part}",
                    ["what", "reason"],
                    [[d["what"], d["reason"]] for d in fit["dropped"]],
                )
            )
    return body


def image(figure: Figure, alt: str) -> str:
    """The figure inside the page, as SVG without a date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c if isinstance(c, str) else show.number(c))}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{lines}</table></div>'


def fold(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{table(columns, rows)}</details>"


def _span(pair: Sequence[float]) -> str:
    return f'<span class="small">[{pair[0]:.2f}, {pair[1]:.2f}]</span>'


if __name__ == "__main__":
    door(main, "analysis/report")
