"""How long tests wait for what must happen, before they say that it does not.

On a machine with other work a process may stand still for seconds, and start half a minute late.
Nothing that is proved depends on this limit: it only ends a test that would never end.
"""

LIMIT_S = 300.0
