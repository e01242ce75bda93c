"""The process that looks at rows may die or hang of what a validator does; the code that is served never notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from evolute.errors import DefinitionError
from tests.end_to_end.backend_under_test import DIES, BackendUnderTest, Deaths
from tests.unit.function_store import write_folder

ROWS = {
    "rows.py": """
@mutation
def add(ctx: MutationCtx, name: str) -> None:
    ctx.db.insert("rows", {"name": name})

@query
def names(ctx: QueryCtx) -> list[str]:
    return [row["name"] for row in ctx.db.query("rows")]
"""
}
SCHEMA = """
from pydantic import BaseModel, field_validator
from evolute import define_schema, define_table
{helpers}
class Row(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def check(cls, name: str) -> str:
        {check}
        return name

schema = define_schema(rows=define_table(Row).index("by_name", ["name"]))
"""


def schema(check: str, helpers: str = "") -> dict[str, str]:
    return {**ROWS, "schema.py": SCHEMA.format(check=check, helpers=helpers)}


def test_a_process_that_dies_is_started_once_more(tmp_path: Path) -> None:
    async def scenario(lives: int) -> None:
        deaths = Deaths(tmp_path / f"deaths {lives}", lives)
        folder = tmp_path / str(lives)
        folder.mkdir()
        try:
            async with BackendUnderTest(folder, ROWS) as served:
                await served.mutate("rows:add", name="a")
                write_folder(served.functions, schema(f"dies({deaths.path!r})", DIES))
                if lives == 1:
                    await served.backend.deployer.deploy(served.functions)
                else:
                    with pytest.raises(DefinitionError, match='rows of table "rows" died 2 times'):
                        await served.backend.deployer.deploy(served.functions)
                assert await served.query("rows:names") == ["a"]
                await served.mutate("rows:add", name="b")
        finally:
            deaths.close()

    for lives in (1, 2):
        asyncio.run(asyncio.wait_for(scenario(lives), 60))


def test_a_validator_that_hangs_is_ended_and_the_setting_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, ROWS) as served:
            await served.mutate("rows:add", name="a")
            write_folder(served.functions, schema("while name: pass"))
            with pytest.raises(DefinitionError, match=r"took longer than 1500 ms; the setting is `system_ms_max`"):
                await served.backend.deployer.deploy(served.functions)
            assert await served.query("rows:names") == ["a"]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_validator_that_breaks_a_rule_of_functions_or_fails_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with BackendUnderTest(tmp_path, ROWS) as served:
            await served.mutate("rows:add", name="a")
            write_folder(served.functions, schema("open('/tmp/side effect', 'w')"))
            with pytest.raises(DefinitionError, match="SideEffectRefused"):
                await served.backend.deployer.deploy(served.functions)
            write_folder(served.functions, schema("raise ValueError('too short')"))
            with pytest.raises(DefinitionError, match=r"does not match the schema: Row does not accept .*too short"):
                await served.backend.deployer.deploy(served.functions)
            assert await served.query("rows:names") == ["a"]

    asyncio.run(asyncio.wait_for(scenario(), 60))
