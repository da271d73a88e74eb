# ruff: noqa: E501 - a fault is one line
"""Planted faults, by the check that finds each: what is changed in ``good.py``, and what the kit says of it.

``...`` stands for any text.
"""

from __future__ import annotations

THREAD = "threading.Thread(target=threading.Event().wait, args=(60,), daemon=True, name='left').start()"
PLAN = "    steps = []\n"
SAID = '    said = host.run(Program(("lookup", config.name)), 5)\n'
IMPORT = "from collections.abc import Iterable\n"
NAME = 'Program(("name", config.name, state.primary_host)), 5)'

FAULTS = {
    "contract": [
        (("fence = contract", "fecne = contract"), "the handler has 'fecne'; did you mean 'fence'?"),
        (("@dataclass(frozen=True)", "@dataclass"), "'Config' must be frozen"),
        (("    name: str\n", "    nmae: str\n"), "name: unknown option"),
        (("helper = contract.never_helps", "def helper(config): return 'no'"), "'helper' must return True or False"),
        (("fail_open_after = contract.never_fails_open", "def fail_open_after(config): return -1"), "must return sec"),
        (('yield mistake("\'name\' must not be empty")', "pass\n    yield 'bad'"), "'validate' must return what"),
        (("    if not config.name:\n", "    open('/etc/hosts')\n    if not config.name:\n"), "'validate' reaches a fi"),
    ],
    "purity": [
        ((PLAN, f"{PLAN}    import os; os.stat('/')\n"), "'plan' reaches a file (stat) at ...faulty.py:42"),
        ((PLAN, f"{PLAN}    open('/etc/hostname').close()\n"), "'plan' reaches a file"),
        ((PLAN, f"{PLAN}    import _posixsubprocess; _posixsubprocess.fork_exec()\n"), "'plan' reaches a program (fork_exec)"),
        ((PLAN, f"{PLAN}    import os; os.system('true')\n"), "'plan' reaches a program (system)"),
        ((PLAN, f"{PLAN}    import socket; socket.gethostbyname('localhost')\n"), "'plan' reaches a socket"),
        ((PLAN, f"{PLAN}    import time; time.time()\n"), "'plan' reaches the clock (time)"),
        ((PLAN, f"{PLAN}    from datetime import datetime; datetime.now()\n"), "'plan' reaches the clock"),
        ((PLAN, f"{PLAN}    from repmgr_hooks import clock; clock.wall()\n"), "'plan' reaches the clock"),
        ((PLAN, f"{PLAN}    import time; time.sleep(3600)\n"), "'plan' reaches a wait (sleep)"),
        ((PLAN, f"{PLAN}    import random; random.random()\n"), "'plan' reaches chance"),
        ((PLAN, f"{PLAN}    import os; os.environ['PATH']\n"), "'plan' reaches the environment"),
        ((PLAN, f"{PLAN}    import threading; threading.Thread(target=len).start()\n"), "'plan' reaches a thread"),
        (
            (PLAN, f"{PLAN}    try: import time; time.time()\n    except BaseException: pass\n"),
            "'plan' reaches the clock",
        ),
        ((SAID, f"{SAID}    global kept; kept = host\n"), (PLAN, f"{PLAN}    kept.now()\n"), "'observe' has returned, and its host is used (now) at"),
        ((PLAN, f"{PLAN}    seen.clear()\n    return []\n"), "'plan' changes its argument 'seen'"),
        ((PLAN, f"{PLAN}    state.states.clear()\n"), "'plan' changes its argument 'state'"),
        (
            (IMPORT, f"{IMPORT}import itertools\ncount = itertools.count()\n"),
            ('Step("begin"', 'Step(f"begin {next(count)}"'),
            "'plan' says something else when it is asked again: 'begin 0'... then 'begin",
        ),
        ((PLAN, f"{PLAN}    1 / 0\n"), "'plan' raises ZeroDivisionError... at ...faulty.py:42"),
        ((PLAN, f"{PLAN}    raise SystemExit\n"), "'plan' raises SystemExit"),
        (("    return steps", "    return [step.what for step in steps]"), "plan must return steps"),
        ((SAID, SAID + "    import threading; said = threading.Lock()\n"), ('"address": said.strip()', '"address": said'), "what 'observe' returns cannot be copied"),
        (("warnings = contract.no_warnings", "def warnings(config, state): open('/etc/hosts')"), "'warnings' reaches"),
    ],
    "convergence": [
        (('    if seen["address"] != state', '    elif seen["address"] != state'), "the steps were taken, and 'plan' still says: 'name 10.0.0.11'"),
        (('seen["address"] != state', 'seen["address"] != "x" + state'), "the steps were taken, and 'plan' still says: "),
        (('state.primary_host)), 5)', 'config.name)), 5)'), "'plan' still says: 'name 10.0.0.11' (node 1 is the primary)"),
        # Right in a fresh world, wrong after a failover.
        (('if seen["address"] != state.primary_host', 'if seen["address"] == "192.0.2.1"'),
         "'plan' says that nothing is missing, and the world says: db leads to 10.0.0.11 (node 2 was promoted"),
        (("    return steps", "    return []"), "'plan' says that nothing is missing, and the world says: db leads to 192"),
        (('"address": said.strip()', '"address": said'), "'plan' still says"),
        (
            ("fence = contract.fence_nothing", "def fence(cluster, nodes, host): return [Step('x', Program(('ready',)), 5)]"),
            "the steps of 'fence' were taken, and it still says: 'x'",
        ),
    ],
    "dry_run": [
        ((SAID, f'    host.run(Program(("begin",)), 5)\n{SAID}'), "a look has changed the world: 'begun' was False, and is"),
        ((SAID, f"    open('/tmp/x', 'w')\n{SAID}"), "'observe' reaches a file"),
        ((SAID, f"    import threading; t = threading.Thread(target=open, args=['/etc/hosts']); t.start(); t.join()\n{SAID}"), "'observe' reaches a file"),
        (
            ("fingerprint = contract.no_fingerprint", "def fingerprint(s, host): return host.run(Program(('begin',)), 5)"),
            "a look has changed the world",
        ),
    ],
    "interruption": [
        (('if seen["address"] != state.primary_host', 'if seen["ready"] != "yes"'), "cut off after step 1 ('begin') and taken up again: 'plan' says that nothing is missing, and the world says: db leads to 192"),
        (('if seen["ready"] != "yes"', 'if seen["address"] != state.primary_host'), "cut off ...step 1 ('begin') and "),
    ],
    "limits": [
        ((SAID, SAID.replace(", 5)", ", 0)")), "'observe' gives the host (run) the limit 0; it must be"),
        ((SAID, SAID.replace(", 5)", ", 1e9)")), "the limit 1000000000.0; it must be above 0, and at most 60 s at ...faulty"),
        ((SAID, f"    try:\n    {SAID}    except Exception: said = ''\n".replace(", 5)", ", 59)")), "'observe' takes 64 s where nothing answers; at most 60 s"),
        ((SAID, "    while True:\n        try:\n            said = host.run(Program(('lookup', '')), 0.01); break\n"
                "        except Exception: pass\n"), "'observe' uses the host more than 1000 times at ...faulty.py"),
        ((SAID, f"    import time; time.sleep(3600)\n{SAID}"), "'observe' reaches a wait (sleep)"),
        ((SAID, f"    try:\n    {SAID}    except Exception: raise ValueError('lookup')\n"), "'observe' raises ValueError"),
        ((NAME, NAME.replace("5)", "0)")), "the step 'name 10.0.0.11' has no time: its limit is 0"),
        ((NAME, NAME.replace("5)", "1e9)")), "the limit of a step must be between 0 and 3600"),
        (
            ("housekeep = contract.no_housekeeping", "def housekeep(c, s, host):\n    try: host.run(Program(('ready',)), 5)\n"
             "    except Exception as e: raise KeyError('x')"),
            "'housekeep' raises KeyError",
        ),
    ],
    "foreign_text": [
        ((SAID, f"{SAID}    int(said.replace('.', ''))\n"), "'observe' raises ValueError...question 1 is foreign text"),
        ((SAID, f"{SAID}    import json; json.loads(said) if said[:1] in '[{{' else 0\n"), "'observe' raises ...JSON"),
        ((SAID, f"{SAID}    said.encode()\n"), "'observe' raises UnicodeEncodeError...not UTF-8"),
        ((SAID, f"{SAID}    said.split()[0]\n"), "'observe' raises IndexError... foreign text (nothing)"),
        ((NAME, NAME.replace("config.name", "seen['address']")), "lets it into an argument of the step 'name 10.0.0.11'"),
        ((NAME, NAME.replace("Program((", "Program(stdin=seen['address'], argv=(")), "'observe' lets it into the input"),
        ((NAME, NAME.replace("Program((", "Program(env={'A': seen['ready']}, argv=(")), "into the environment of the step"),
    ],
    "threads": [
        ((SAID, f"{SAID}    import threading; {THREAD}\n"), "'observe' has answered, and its thread 'left' still runs"),
        (
            ("housekeep = contract.no_housekeeping", f"def housekeep(c, s, h):\n    import threading; {THREAD}"),
            "'housekeep' has answered, and its thread 'left' still runs",
        ),
    ],
}  # fmt: skip
