r"""The records of the sections as a page of Markdown."""

TITLES = {
    "device": "Device",
    "sync": "Steps that wait for the device",
    "price": "Price of a step",
    "long": "60,000 convolutional steps",
    "seeds": "Seeds at once",
    "evidence": "Certified log p(x)",
    "rows": "A table with a row for each point",
    "resume": "Resume",
    "ppca": "PPCA",
}


def markdown(records: dict[str, dict], total: float) -> str:
    r"""Returns the page; ``records`` are those of `gpu_apart.run`, by name of the section."""
    parts = [f"# Measured on a device, {total:.0f} s in all"]
    parts += [_section(TITLES.get(name, name), record) for name, record in records.items()]
    return "\n\n".join(parts) + "\n"


def _section(title: str, record: dict) -> str:
    memory = record.get("peak_gb")
    took = f"{record['seconds']:.1f} s of {record['budget']:.0f}"
    parts = [f"## {title}", took + ("" if memory is None else f", at most {memory:.2f} GB on the device") + "."]
    if "error" in record:
        parts.append(f"**Not finished**: {record['error']}")
    parts += [_table(record["rows"])] if record["rows"] else []
    return "\n\n".join([*parts, *record["notes"]])


def _table(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value) -> str:
    if value is None:
        return "–"
    text = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
    return text.replace("|", "\\|")
