"""Checks two commits out, each with an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.check.compare import Commit

HARNESS = ("benchmarks", "examples", "tests")


class GitError(Exception):
    """Git refused."""


def base_of(root: Path, head: str, main: str = "main") -> str:
    """Return what a commit is compared with by default.

    It is the merge base with `main`, or the parent of a commit that is on `main` itself.
    """
    base = git(root, "merge-base", head, main)
    return git(root, "rev-parse", f"{head}^") if base == git(root, "rev-parse", head) else base


def check_out(root: Path, folder: Path, revision: str) -> str:
    """Put a commit into a worktree, which is kept for the next time; return its hash."""
    commit = git(root, "rev-parse", "--verify", f"{revision}^{{commit}}")
    if (folder / ".git").exists():
        git(folder, "checkout", "--quiet", "--detach", "--force", commit)
    else:
        git(root, "worktree", "prune")
        git(root, "worktree", "add", "--quiet", "--detach", str(folder), commit)
    return commit


def install(uv: Path, folder: Path, harness: Path, revision: str) -> Commit:
    """Install a commit that is checked out with its locked versions."""
    environment = folder / ".venv"
    python = environment / "bin" / "python"
    pip = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    requirements = str(folder / "requirements" / "test.txt")
    for command in (
        [str(uv), "venv", "--quiet", "--allow-existing", str(environment)],
        [*pip, "--require-hashes", "--requirement", requirements],
        [*pip, "--no-deps", "--no-build-isolation", "--editable", str(folder)],
    ):
        subprocess.run(command, check=True)
    return Commit(revision, python, harness)


def link(root: Path, harness: Path) -> Path:
    """Make a folder with the measuring code of this checkout, and without the package."""
    harness.mkdir(parents=True, exist_ok=True)
    for name in HARNESS:
        path = harness / name
        path.unlink(missing_ok=True)
        path.symlink_to(root / name, target_is_directory=True)
    return harness


def git(folder: Path, *arguments: str) -> str:
    """Run git, and return its output.

    Raises:
        GitError: It failed.
    """
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise GitError(result.stderr.strip())
    return result.stdout.strip()
