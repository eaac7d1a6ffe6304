"""From requests to tokens: scheduler, batch, sampler, stop rules, step, process, client."""
