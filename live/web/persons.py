"""The trained persons that the page can show: every run that has a generator and a profile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from util.layout import PageFiles, Run, root

if TYPE_CHECKING:
    from util.provenance import Provenance


@dataclass(frozen=True)
class Person:
    """A person who can be driven."""

    id: str  # of this person in addresses; says nothing of the place
    name: str
    dataset: str
    run: str
    folder: Path  # of the run
    trained_ns: int  # when the generator was written

    def as_json(self) -> dict[str, str]:
        default = f"head2head_{self.name}"
        return {"id": self.id, "name": self.name, "dataset": self.dataset, "run": "" if self.run == default else self.run}

    def provenance(self, driver: str, driver_kind: str, composite: bool) -> Provenance:
        """What the credentials of a recording say. Arguments: as of Provenance. Raises: UserError when the run is damaged."""
        from models.checkpoints import read_run_options
        from util.results.origin import provenance_of_run

        run = Run(self.folder, self.folder)
        return provenance_of_run(run, read_run_options(run), self.name, driver, driver_kind, composite=composite)

    def picture(self, files: PageFiles) -> Path:
        """The person at rest, as this generator draws it; made when the person is loaded first."""
        return files.pictures / f"{self.id}_{self.trained_ns}.jpg"


def find_persons(checkpoints_dir: Path | None) -> dict[str, Person]:
    """Id -> person, for all runs in checkpoints/<D>/, sorted by name. What cannot be read is left out."""
    base = checkpoints_dir or root() / "checkpoints"
    found = []
    for generator in sorted(base.glob("*/*/latest_net_G.pth")):
        folder = generator.parent
        run = Run(folder, folder)
        if not run.options_path.is_file():
            continue
        for profile in sorted(run.profile_path("x").parent.glob("*.npz")):
            key = "/".join((folder.parent.name, folder.name, profile.stem))
            id = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            try:
                changed = generator.stat().st_mtime_ns
            except OSError:  # just being replaced
                continue
            found.append(Person(id, profile.stem, folder.parent.name, folder.name, folder, changed))
    return {person.id: person for person in sorted(found, key=lambda p: (p.name.casefold(), p.dataset, p.run))}
