"""What all tables share: names of constraints, column types, and the one clock."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import TIMESTAMP, BigInteger, LargeBinary, MetaData, Text, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from xmag.db.ids import new_id


def one_of(column: str, values: Iterable[str]) -> str:
    """SQL that a text column holds one of ``values``."""
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


Id = Annotated[UUID, mapped_column(primary_key=True, default=new_id)]
Big = Annotated[int, mapped_column(BigInteger)]
Now = Annotated[datetime, mapped_column(server_default=func.clock_timestamp())]


class Base(DeclarativeBase):
    """Names every constraint, so that migrations and error messages can."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        bytes: LargeBinary,
        datetime: TIMESTAMP(timezone=True),
        dict[str, Any]: JSONB,
        dict[str, str]: JSONB,
        dict[str, float]: JSONB,
        list[str]: ARRAY(Text),
    }
