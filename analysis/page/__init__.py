"""The report's page: chapters of HTML about one fit. Only `sources` reads, through `records`; nothing here writes.

One file is one chapter; each function returns a list of HTML parts, empty where the fit holds nothing to tell.
"""
