"""Write the tables, or compare them."""

import sys

from benchmarks.tables import DOCUMENTS, ROOT, with_tables


def main() -> int:
    """Return the exit code."""
    check, code = "--check" in sys.argv[1:], 0
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := with_tables(text)) != text:
            code = int(check)
            print(f"{path.relative_to(ROOT)}: {'differs from its records' if check else 'written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
