"""The report's page: sections of HTML about one fit, from its files and its records; nothing here reads or writes a file.

One file is one chapter; each function returns a list of HTML parts, empty where the fit holds nothing to tell.
"""
