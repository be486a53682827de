"""The schema as text: the settings.toml that `init` writes, and docs/settings.md.

Both come from the explanations beside the keys, so that neither can be out of date.
"""

import json
import textwrap
from typing import Any

import msgspec

from dask_runner.settings.keys import SECTION_TYPES, SECTIONS, STEP_KEYS, STEPS, Key
from dask_runner.settings.schema import DEFAULT_STEPS, StepSettings

_WIDTH = 96

_TOML_TOP = """\
Settings of dask-runner. Every key has its default here; change what you need, remove what you do
not. The command line goes before the environment (DASK_RUNNER_<SECTION>_<KEY>), the environment
before this file. `dask-runner settings` shows every value in force and where it is from.
"""

_MARKDOWN_TOP = """\
# Settings

Written by `scripts/update_generated.py` from the explanations in `dask_runner/settings/schema.py`.

`dask-runner init` writes a `settings.toml` with every key explained. A value is taken from the
first of these places that gives it:

1. the command line,
2. the environment: `DASK_RUNNER_<SECTION>_<KEY>`, for example `DASK_RUNNER_RUN_BATCH_SIZE=25`;
   text as it is, everything else as it stands in settings.toml
   (`DASK_RUNNER_RECONSTRUCT_KEEP='["AOD"]'`),
3. the file: `--settings FILE`, else the one that `DASK_RUNNER_SETTINGS` names, else
   `settings.toml` in the current folder if there is one,
4. the default.

`dask-runner settings` shows each value and where it is from. Unknown keys and variables, wrong
types and values out of range are refused with their place and the nearest right key. So is a
settings file or hostfile that belongs to another user or that others may write to, because it
decides which programs run in your name.

The variables `DASK_RUNNER_RUN`, `DASK_RUNNER_BATCH`, `DASK_RUNNER_ATTEMPT`,
`DASK_RUNNER_SCRATCH` and `DASK_RUNNER_CLUSTER` are no settings; they are ignored here.
"""


def settings_toml() -> str:
    """A settings.toml that gives every key its default and says what it means."""
    blocks = [_comment(_TOML_TOP)]
    for section, keys in SECTIONS.items():
        blocks.append(f"{_comment(_about(section))}[{section}]\n")
        blocks += [_toml_key(key) for key in keys.values() if key.dotted != STEPS]
        if STEPS in {key.dotted for key in keys.values()}:
            blocks += _toml_steps(keys["steps"])
    return "\n".join(blocks)


def settings_markdown() -> str:
    """docs/settings.md."""
    parts = [_MARKDOWN_TOP]
    for section, keys in SECTIONS.items():
        parts.append(f"## [{section}]\n\n{_about(section)}\n")
        parts.append(_table(keys.values()))
    parts.append(
        f"## [[{STEPS}]]\n\nOne such table for each step. Steps given anywhere replace the "
        "default steps as a whole.\n"
    )
    parts.append(_table(STEP_KEYS.values()))
    return "\n".join(parts)


def toml_value(value: Any) -> str:
    """A value as settings.toml has it; of a step, what differs from the default."""
    if isinstance(value, StepSettings):
        value = {
            name: getattr(value, name)
            for name, key in STEP_KEYS.items()
            if getattr(value, name) != key.default
        }
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{name} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, str):
        # The escapes of JSON are escapes of TOML; only DEL is allowed there and not here.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


def _about(section: str) -> str:
    return " ".join((SECTION_TYPES[section].__doc__ or "").split())


def _comment(text: str) -> str:
    paragraph = " ".join(text.split())
    return "".join(f"# {line}\n" for line in textwrap.wrap(paragraph, _WIDTH))


def _toml_key(key: Key) -> str:
    return f"{_comment(key.description)}{key.name} = {toml_value(key.default)}\n"


def _toml_steps(steps: Key) -> list[str]:
    width = max(len(name) for name in STEP_KEYS) + 2
    lines = [_comment(steps.description), "# The keys of a step:\n"]
    for key in STEP_KEYS.values():
        text = key.description
        if key.default and key.default is not msgspec.NODEFAULT:
            text += f" Default: {toml_value(key.default)}."
        wrapped = textwrap.wrap(text, _WIDTH - width - 2)
        lines += [
            f"#   {name:{width}}{line}\n"
            for name, line in zip([key.name] + [""] * len(wrapped), wrapped, strict=False)
        ]
    tables = [
        f"[[{STEPS}]]\nname = {toml_value(step.name)}\noutput = {toml_value(step.output)}\n"
        for step in DEFAULT_STEPS
    ]
    return ["".join(lines), *tables]


def _table(keys: Any) -> str:
    rows = ["| key | default | meaning |\n|---|---|---|\n"]
    for key in keys:
        if key.default is msgspec.NODEFAULT:
            default = "(needed)"
        elif key.dotted == STEPS:
            default = ", ".join(step.name for step in DEFAULT_STEPS)
        else:
            default = f"`{toml_value(key.default)}`"
        rows.append(f"| `{key.name}` | {default} | {key.description.replace('|', '&#124;')} |\n")
    return "".join(rows)
