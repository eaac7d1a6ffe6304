"""The core, from ids to ids: scheduler, steps, sampler, stop rules."""
