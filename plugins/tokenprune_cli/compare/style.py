# SPDX-License-Identifier: Apache-2.0
"""How the report and its plots look."""

PLOT_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #333; }
.grid { stroke: #e4e4e4; } .level { stroke: #222; stroke-dasharray: 2 3; }
polyline { stroke-width: 1.6; } .bar { stroke-opacity: .35; }
"""
STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1240px; margin: 24px auto; }}
body {{ padding: 0 20px; }}
h1 {{ font-size: 26px; }}
h2 {{ border-bottom: 1px solid #ccc; padding-bottom: 4px; margin-top: 36px; }}
p {{ max-width: 900px; }}
.small {{ font-size: 13px; color: #555; }}
code {{ background: #f3f3f3; padding: 2px 5px; }}
table {{ border-collapse: collapse; margin: 12px 0; font-size: 14px; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; font-style: italic; padding-bottom: 4px; }}
th, td {{ padding: 2px 14px 2px 0; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ border-bottom: 1px solid #999; }}
.keep {{ padding-top: 10px; border-bottom: 1px solid #ddd; }}
tr.above td:nth-child(6) {{ font-weight: 600; }}
tr.below td:nth-child(6) {{ color: #b3261e; }}
tr.refused td {{ color: #888; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 12px; }}
.plots figure {{ margin: 0; flex: 1 1 540px; max-width: 620px; }}
svg {{ width: 100%; height: auto; }}
{PLOT_STYLE}
.example {{ border-top: 1px solid #ddd; margin-top: 14px; }}
.example h4 {{ margin: 10px 0 4px; }}
.example h4 i {{ font-weight: 400; color: #555; }}
.row {{ display: flex; flex-wrap: wrap; gap: 10px 12px; margin: 6px 0; }}
.row figure {{ margin: 0; width: 132px; font-size: 12px; line-height: 1.3; }}
.row img {{ width: 132px; display: block; margin-bottom: 3px; }}
.row .refused {{ color: #888; }}
.right {{ color: #1a7f37; }}
.wrong {{ color: #b3261e; }}
summary {{ cursor: pointer; font-weight: 600; }}
"""
