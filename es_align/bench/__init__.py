"""Measurements a user can repeat: what a population costs beside the unmodified engine."""
