"""What the user asked for at the end of a command: the terminal's bell, a command of his own."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from mlx_video.events import Notice
from mlx_video.progress.display import Display, Ending


def tell_user(ending: Ending, display: Display, *, command: str | None, rings: bool) -> None:
    """Ring, and run a command; neither changes how the work ended.

    Args:
        ending: of the work.
        display: says where the command fails.
        command: a line for the shell; None for none.
        rings: whether the terminal's bell rings; a file or a pipe has none.
    """
    if rings and display.stream.isatty():
        with suppress(OSError):
            display.stream.write("\a")
            display.stream.flush()
    if command:
        fault = run_notification(command, ending)
        if fault:
            display.show(Notice(f"--notify: {fault}"))


def run_notification(command: str, ending: Ending) -> str:
    """Run a command of the user's; what it prints is not shown.

    Args:
        command: a line for the shell, which gets the variables of :func:`variables_of`.
        ending: of the work.

    Returns:
        What went wrong with it; "" where nothing did.
    """
    try:
        done = subprocess.run(
            command,
            shell=True,
            env=os.environ | variables_of(ending),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except (OSError, ValueError) as error:  # a null byte is a ValueError
        return f"{command!r} cannot be run ({error}). Try it in a shell."
    except KeyboardInterrupt:
        return f"{command!r} was interrupted."
    if done.returncode == 0:
        return ""
    *_, last = ("", *filter(None, done.stderr.split("\n")))
    said = f" and said: {last[:200]}" if last else ""
    return f"{command!r} ended with exit code {done.returncode}{said}. Try it in a shell."


def variables_of(ending: Ending) -> dict[str, str]:
    """Environment variables that tell a command how the work ended."""
    output = os.fspath(ending.outputs[-1].absolute()) if ending.outputs else ""
    return {
        "MLX_VIDEO_STATUS": ending.status,
        "MLX_VIDEO_OUTPUT": output,
        "MLX_VIDEO_MESSAGE": ending.message,
        "MLX_VIDEO_EXIT_CODE": str(ending.exit_code),
        "MLX_VIDEO_SECONDS": f"{ending.wall_seconds:.0f}",
    }
