"""From requests to tokens: scheduler, batch, sampler, stop rules, the step, its process, its client."""
