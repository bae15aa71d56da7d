"""What every entry point shares: Hydra ends here, and a user's mistake ends in one sentence and exit code 2."""

from __future__ import annotations

import atexit
import errno
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rlscale.typed import Mistake, nearest

# What a user can mend outside of the program: a full disk or quota, a place where nothing may be written.
FULL_OR_FORBIDDEN = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
CONF = Path(__file__).resolve().parent.parent / "conf"


def door(main: Callable[[Any], Any], config: str, home: Path = CONF) -> None:
    """Run `main(cfg)` under Hydra with the primary config `config` of the folder `home`; exits 0 only on success."""
    # Hydra's own reporting prints several lines and exits 1; with this it raises, and the sentence is ours.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    warnings.filterwarnings("ignore", message=r"provider=hydra.searchpath")  # study/conf may not exist yet
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that claims are given back and jobs are ended
    OmegaConf.register_new_resolver("rlscale_scratch", scratch, use_cache=True, replace=True)

    @functools.wraps(main)
    def task(cfg: Any) -> Any:
        try:
            return main(cfg)
        except (Mistake, OSError) as error:  # caught here, since Hydra would print the job's overrides above it
            fail(told(error))

    try:
        hydra.main(version_base="1.3", config_path=str(home), config_name=config)(task)()
    except (HydraException, OmegaConfBaseException) as error:  # one of Hydra's is an OSError too
        fail(sentence(error, config, home))
    except (Mistake, OSError) as error:
        fail(told(error))
    except ValueError as error:
        if "override must be" not in str(error):  # an empty key, which Hydra does not call an error of its own
            raise
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted: what is recorded stays; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def scratch() -> str:
    """A folder for files that Hydra insists on writing, gone with the process."""
    folder = tempfile.mkdtemp(prefix="rlscale-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def told(error: Mistake | OSError) -> str:
    """What a user can mend, as a sentence; raises `error` again if it is something else."""
    if isinstance(error, Mistake):
        return str(error)
    if error.errno not in FULL_OR_FORBIDDEN:
        raise error
    what = f"{error.filename or 'a file'}: {error.strerror}"
    return f"{what}; free or allow it, or name another study: RLSCALE_STUDY=..."


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def sentence(error: Exception, config: str, home: Path) -> str:
    """Hydra's multi-line complaint about the command line as one sentence with key, value and mend."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1].lstrip("+~")
        value = next((a.split("=", 1)[1] for a in sys.argv if a.lstrip("+~").startswith(f"{key}=")), "")
        keys = known_keys(config, home)
        above, group = key.rpartition(".")[0], key.partition(".")[0]
        option = above.removeprefix(f"{group}.")  # of a group of which several may be chosen, each under its name
        if above not in keys and (home / group / f"{option}.yaml").exists():
            return f"{key}={value}: {option} is not among the chosen options of {group}; add it, {group}=[{option}]"
        if group != above in keys and not any(
            k.startswith(f"{above}.") for k in keys
        ):  # log.wandb.mode without log=wandb
            return f"{key}={value}: {above} has no keys with the chosen option of {group}; choose another, {group}=…"
        mend = nearest(key, keys) if key not in keys else "the other options of this command line have no such key"
        return f"{key}={value}: there is no such key; {mend}"
    if found := re.search(r"Could not find '([^']+)'(?:.|\n)*?Available options in '[^']+':((?:\n\t.*)*)", text):
        group, _, option = found[1].rpartition("/")
        return f"{group}={option}: there is no such option; {nearest(option, found[2].split())}"
    if found := re.search(r"Could not load '([^'/]+)/([^']+)'", text):  # one of several options in brackets
        options = [path.stem for path in (home / found[1]).glob("*.yaml")]
        return f"{found[1]}=[{found[2]}]: there is no such option; {nearest(found[2], options)}"
    return " ".join(text.split("\nSee ")[0].split())


def known_keys(config: str, home: Path) -> list[str]:
    """Every key of the primary config with the options of this command line, to find the nearest to a misspelt one."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    GlobalHydra.instance().clear()
    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for name, value in node.items_ex(resolve=False):
            keys.append(f"{prefix}{name!s}")
            if isinstance(value, DictConfig) and not value._is_none():
                walk(value, f"{prefix}{name!s}.")

    options = [a for a in sys.argv[1:] if "=" in a and (home / a.split("=")[0]).is_dir() and "," not in a]
    with initialize_config_dir(str(home), version_base="1.3"):
        walk(compose(config, options), "")
    return keys
