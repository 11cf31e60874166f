"""How the page looks: on paper, on a light and on a dark screen, narrow and wide."""

from typing import Final

CSS: Final = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5a5f66; --line: #d9dce0; --ground: #ffffff;
  --raised: #f5f6f8; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  "DejaVu Sans", sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead, .note, figcaption p, footer { color: var(--soft); }
.lead { margin-top: .3rem; max-width: none; }
.verdict { border-left: 5px solid var(--accent); background: var(--raised); padding: .8rem 1.1rem; margin: 1.2rem 0;
  max-width: none; font-size: 1.06rem; overflow-wrap: anywhere; }
.key { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.4rem 0; padding: 0; list-style: none; }
.key li { flex: 1 1 7.2rem; max-width: 15rem; padding: .6rem .75rem; border: 1px solid var(--line);
  border-radius: 6px; }
.key b { display: block; white-space: nowrap; font-size: 1.3rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.key span { color: var(--soft); font-size: .86rem; line-height: 1.3; display: block; margin-top: .2rem;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: .8rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0 1.8rem; break-inside: avoid; }
figcaption p { font-size: .92rem; margin: 0 0 .6rem; }
figcaption h3 { margin: 0 0 .1rem; }
svg { display: block; width: 100%; min-width: 28rem; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .4rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
td:not(.w) { white-space: nowrap; }
.w { text-align: left; overflow-wrap: break-word; max-width: 24rem; }
th:first-child, td:first-child { padding-left: 0; }
details { margin: .3rem 0 .8rem; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
code { font-size: .9em; overflow-wrap: anywhere; }
footer { margin-top: 3rem; font-size: .86rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a3a9b2; --line: #363b43; --ground: #15171b; --raised: #1f2329; --accent: #56B4E9; }
  .s0 [stroke="#0072B2"], .s0[stroke="#0072B2"] { stroke: #4aa3e0; } .s0 [fill="#0072B2"] { fill: #4aa3e0; }
}
@media (max-width: 40rem) {
  dl { display: block; } dd { margin-bottom: .5rem; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #333; --line: #bbb; --ground: #fff; --raised: #fff; }
  @page { margin: 15mm 14mm; }
  html { font-size: 10pt; } body { font-size: 10pt; } main { max-width: none; padding: 0; }
  h2 { break-after: avoid; margin-top: 1.6rem; } h3 { break-after: avoid; }
  .verdict { border: 1px solid #000; border-left-width: 5px; }
  tr, dl, p, .key, table.short { break-inside: avoid; } .scroll { overflow: visible; } svg { min-width: 0; }
  details:not([open]) { display: none; }
  table { font-size: 8.5pt; }
}
"""
