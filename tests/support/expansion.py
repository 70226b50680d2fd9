"""What a migration must not do to what was there, if the release before it is to go on: `migrations/env.py`."""

from sqlalchemy import MetaData, insert, inspect
from sqlalchemy.exc import DatabaseError

from secateur_service.jobs.migration import upgrade
from secateur_service.jobs.schema import compatibility

OWN = {"alembic_version", compatibility.name}


def contractions(engine, scripts, before, after):
    """What is broken for code of revision `before` by the migration to `after`, on an empty database."""
    with engine.begin() as connection:
        upgrade(connection, before, scripts=scripts)
        old, known = description(connection), MetaData()
        known.reflect(connection)
    with engine.begin() as connection:
        upgrade(connection, after, scripts=scripts)
        found = list(differences(old, description(connection)))
    with engine.begin() as connection:
        for table in known.sorted_tables:
            if table.name not in OWN:
                try:
                    connection.execute(insert(table).values({column: plausible(column) for column in table.columns}))
                except DatabaseError as error:
                    return [*found, f"{table.name} takes no row of the older release: {error.orig}"]
    return found


def description(connection):
    inspected = inspect(connection)
    return {
        name: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspected.get_columns(name)
            },
            "rules": {
                *(f"unique {rule['column_names']}" for rule in inspected.get_unique_constraints(name)),
                *(f"unique {rule['column_names']}" for rule in inspected.get_indexes(name) if rule["unique"]),
                *(f"check {rule['sqltext']}" for rule in inspected.get_check_constraints(name)),
                *(
                    f"foreign {rule['constrained_columns']} {rule['referred_table']} {rule['referred_columns']}"
                    for rule in inspected.get_foreign_keys(name)
                ),
                f"primary {inspected.get_pk_constraint(name)['constrained_columns']}",
            },
        }
        for name in inspected.get_table_names()
        if name not in OWN
    }


def differences(old, new):
    for name, table in old.items():
        if name not in new:
            yield f"{name} is gone"
            continue
        columns = new[name]["columns"]
        for column, (kind, nullable, default) in table["columns"].items():
            if column not in columns:
                yield f"{name}.{column} is gone"
                continue
            now_kind, now_nullable, now_default = columns[column]
            if now_kind != kind:
                yield f"{name}.{column} is {now_kind}, it was {kind}"
            if now_nullable != nullable:
                yield f"{name}.{column} is {'nullable' if now_nullable else 'not nullable'} now"
            if default is not None and now_default is None:
                yield f"{name}.{column} has lost its default"
        for column, (_kind, nullable, default) in columns.items():
            if column not in table["columns"] and not nullable and default is None:
                yield f"{name}.{column} is new and has to be given"
        for rule in sorted(new[name]["rules"] ^ table["rules"]):
            yield f"{name}: {rule} is {'new' if rule in new[name]['rules'] else 'gone'}"


def plausible(column):
    """A value that fits, the same wherever a column refers to another."""
    if column.name == "state":
        return "QUEUED"
    return {int: 1, float: 1.0, str: "x"}.get(column.type.python_type, {})
