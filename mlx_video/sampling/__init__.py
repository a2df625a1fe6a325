"""Noise becomes latents: schedule, solver, guidance, loop. This room knows no transformer and no prompt.

A transformer under guidance is one function here, ``velocity(latents, step, timestep)``.
"""
