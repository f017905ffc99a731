"""Which pixels an output depends on: maps by several methods, and scores of the maps."""
