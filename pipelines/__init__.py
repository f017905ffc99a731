"""Stages as commands: each reads artifacts and writes one."""
