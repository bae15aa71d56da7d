"""Figures of a fit: pure functions from tables to panels of SVG; nothing here reads or writes a file.

A family of figures is one file and each of its functions returns a `canvas.Plate`: small panels that a page lays out in
as many columns as it has room for, with one legend beside them and none over the data.
"""
