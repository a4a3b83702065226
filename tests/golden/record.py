"""Write the golden values anew: python tests/golden/record.py [COMMAND …].

It tells what changes; what is meant to belongs into CHANGES.md. A case whose data are not beside the repository keeps
what it has.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path


def main(wanted):
    """Record the cases of the commands that are wanted, or of all."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from golden_cases import CASES, Inputs
    from golden_values import differences, flat, read, write
    from tests_paths import SHARED

    def shared(relative):
        path = SHARED / relative
        if not path.exists():
            raise FileNotFoundError(path)
        return path

    warnings.simplefilter("ignore")
    commands = wanted or sorted({case.command for case in CASES})
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(Path(folder), shared)
        for command in commands:
            old, new = read(command), {}
            for case in (c for c in CASES if c.command == command):
                try:
                    found = flat(case.run(inputs))
                except FileNotFoundError as err:
                    print(f"{case}: kept, {err} is missing")
                    found = old.get(case.name, {})
                told = differences(old.get(case.name, {}), found, case.tolerance, case.loose)
                print(f"{case}: {len(found)} values, {len(told)} changed", *told[:5], sep="\n    ")
                # What did not change stays as it was written, to the last digit.
                new[case.name] = found if told or case.name not in old else old[case.name]
            write(command, new)


if __name__ == "__main__":
    main(sys.argv[1:])
