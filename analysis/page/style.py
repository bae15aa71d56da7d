"""How the page looks: on light and dark paper, on a phone, and printed."""

from __future__ import annotations

from analysis.figures.canvas import variable
from analysis.figures.palette import PAIRS

RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 color:var(--ink);background:var(--paper);margin:0 auto;max-width:76rem;padding:2rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.35rem;line-height:1.3;margin:3.2rem 0 .6rem;padding-top:.9rem;border-top:1px solid var(--grid)}
h3{font-size:1.05rem;margin:2rem 0 .4rem}
p{max-width:46rem;margin:.5rem 0}
.faint,figcaption,.title{color:var(--faint)}
.faint,.caption{font-size:.9rem}
.span{white-space:nowrap}
a{color:var(--accent)}
a:focus-visible,summary:focus-visible,.wide:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;padding:0;margin:1rem 0 0;font-size:.92rem}
sup{line-height:0;font-size:.72em}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
pre{background:var(--shade);border-radius:6px;padding:.7rem .9rem;margin:.5rem 0;white-space:pre-wrap;
 overflow-wrap:anywhere;max-width:60rem}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.15rem 1.3rem;font-size:.88rem;max-width:60rem}
.facts dt{color:var(--faint)}
.facts dd{margin:0;overflow-wrap:anywhere}
.laws{display:grid;grid-template-columns:max-content 1fr;gap:.55rem 1.3rem;margin:1.2rem 0;max-width:60rem}
.laws dt{color:var(--faint)}
.laws dd{margin:0}
.laws .law{font-size:1.08rem}
.warn{border-left:3px solid var(--alarm);padding:.1rem 0 .1rem .8rem}
.wide{overflow-x:auto;margin:.2rem 0 1.2rem;max-width:100%}
table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
.title{font-size:.9rem;margin:1rem 0 .2rem}
th,td{padding:.26rem .9rem .26rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
th{font-weight:600;border-bottom:1.5px solid var(--faint);white-space:nowrap;vertical-align:bottom}
td{white-space:nowrap}
td.n,th.n{text-align:right}
td.long{white-space:normal;min-width:18rem;overflow-wrap:anywhere}
tbody tr:last-child td{border-bottom:0}
.yes{color:var(--ink)}
.no{color:var(--alarm);font-weight:600}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--accent);padding:.15rem 0}
ul.notes{padding-left:1.2rem;max-width:60rem}
ul.notes li{margin:.2rem 0}
dl.check{max-width:60rem}
dl.check dt{font-weight:600;margin-top:.9rem}
dl.check dd{margin:.1rem 0 0}
.plate{margin:1rem 0 1.6rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(19rem,100%),1fr));gap:1.1rem 1.4rem}
.large .panels{grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr))}
.panels figure{margin:0;min-width:0;max-width:25rem;break-inside:avoid}
.large .panels figure{max-width:32rem}
.panels figcaption{color:var(--ink);font-weight:600;font-size:.92rem;margin-bottom:.15rem;overflow-wrap:anywhere}
.panels svg{display:block;width:100%;height:auto;overflow:visible}
.panels svg *{stroke-linejoin:round;stroke-linecap:butt}
.keys{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;list-style:none;padding:0;margin:.2rem 0 .7rem;font-size:.86rem}
.keys li{display:flex;align-items:center;gap:.4rem}
.keys svg{width:22px;height:12px;flex:none}
@media (max-width:40rem){
 body{padding:1.2rem 1rem 3rem}
 h1{font-size:1.55rem}
 .laws,.facts{grid-template-columns:minmax(0,1fr);gap:.1rem}
 .laws dd,.facts dd{margin:0 0 .7rem}
}
@media print{
 body{max-width:none;padding:0;font-size:10.5pt}
 nav{display:none}
 h2{break-after:avoid}
 .wide{overflow:visible}
 .panels{grid-template-columns:repeat(3,1fr)}
 .large .panels{grid-template-columns:repeat(2,1fr)}
 details::details-content{content-visibility:visible;block-size:auto}
}
"""
NAMES = {
    "paper": "#ffffff",
    "ink": "#1f2429",
    "faint": "#68707a",
    "grid": "#e4e7eb",
    "accent": "#2464b4",
    "alarm": "#b3372c",
}
SHADE = "#f3f5f7", "#1d2125"


def css(body: str) -> str:
    """The page's style: the rules, and of the palette what `body` uses."""
    used = [c for c in PAIRS if variable(c) + ")" in body]
    light = "".join(f"{variable(c)}:{c};" for c in used)
    dark = "".join(f"{variable(c)}:{PAIRS[c]};" for c in used)
    named = "".join(f"--{name}:{c};" for name, c in NAMES.items()) + f"--shade:{SHADE[0]};"
    named_dark = "".join(f"--{name}:{PAIRS[c]};" for name, c in NAMES.items()) + f"--shade:{SHADE[1]};"
    # on screens only: what is printed stays dark on white
    theme = f":root{{{named}{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{named_dark}{dark}}}}}"
    return theme + RULES
