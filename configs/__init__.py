"""Choices as data: settings, report layouts, metric tables."""
