"""Whether the harness would find a bug: with one seeded, it is run until it finds a violation."""

import failing
import points


def find(binary, home, bases, bug, part, rng):
    """Returns what was tried, and the first violation, or None."""
    environment = {"EDGEPUSH_BUG": bug}
    tried = []
    if part == "failing":
        for fs, base in bases.items():
            violations = failing.check(binary, f"{home}/{fs}", fs, base, "tar.gz", environment)
            tried.append(f"refused write on {fs}")
            if violations:
                return ", ".join(tried), violations[0]
        return ", ".join(tried), None
    for fs in bases if part == "cuts" else ("ext4",):
        bench = points.Bench(binary, f"{home}/{fs}", fs, bases[fs], part == "cuts", environment)
        try:
            found = points.count(bench, "tar.gz")
            for n, point in enumerate(rng.sample(found, len(found))):
                _, violations = points.strike(bench, "tar.gz", point)
                if violations:
                    tried.append(f"{part} on {fs}, {n + 1} of {len(found)} points")
                    return ", ".join(tried), violations[0]
            tried.append(f"{part} on {fs}, all {len(found)} points")
        finally:
            bench.close()
    return ", ".join(tried), None
