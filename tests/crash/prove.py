"""Whether the harness would find a bug: with one seeded, it is run until it finds a violation."""

import failing
import images
import points

IMAGES = 200


def find(binary, home, bases, bug, part, rng):
    """Returns what was tried, and the first violation, or None."""
    environment = {"EDGEPUSH_BUG": bug}
    tried = []
    if part == "failing":
        for fs in ("ext4", "xfs"):
            violations = failing.check(binary, f"{home}/{fs}", fs, bases[fs], "tar.gz", environment)
            tried.append(f"refused write on {fs}")
            if violations:
                return ", ".join(tried), violations[0]
        return ", ".join(tried), None
    if part == "images":
        records = images.record(binary, f"{home}/record", "btrfs", bases["btrfs"], environment)
        bench = images.Bench(binary, f"{home}/bench", "btrfs", bases["btrfs"])
        try:
            for n, cut in enumerate(images.choose_cuts(records, IMAGES, rng)):
                violations = bench.check(records, cut, rng)
                if violations:
                    return f"crash images on btrfs, {n + 1} of {IMAGES}", violations[0]
        finally:
            bench.close()
        return f"crash images on btrfs, all {IMAGES}", None
    for fs in ("ext4", "xfs") if part == "cuts" else ("ext4",):
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
