"""``queue-node soak``: a node under load for as long as you like, attacked, and checked.

``command`` is what an operator types; ``run`` joins the rest. ``history``, ``ledger``,
``growth`` and ``plan`` are pure: what was seen, whether it may be so, whether memory and disk
grow, and what is attacked when. ``load``, ``node``, ``chaos`` and ``volume`` touch the world.
"""
