"""HTML pages of reports: one file each, with one style, tables that sort, and plots as SVG.

The packages that write reports import this one, and it imports none of them.
"""
