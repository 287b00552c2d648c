"""Importers of logs in the formats of other projects."""
