"""Tables as spreadsheets and statistics programs save them, and files that are none."""

from __future__ import annotations

import pytest

from mlla_seg.data.csv_table import read_table
from mlla_seg.errors import InputError

CELLS = [{"id": "p1", "site, city": "Köln", "age": ""}, {"id": "p2", "site, city": "a\nb", "age": "7"}]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_are_read_as_programs_save_them(tmp_path, separator, encoding, end):
    lines = ['id,"site, city",age', ",,", "p1, Köln ,", "", f'p2,"a{end}b","7"', ""]
    text = end.join(line.replace(",", separator).replace(f"site{separator}", "site,") for line in lines)
    path = tmp_path / "cohort.csv"
    path.write_bytes(text.encode(encoding))
    table = read_table(path)
    assert table.columns == ("id", "site, city", "age")
    assert [dict(row.cells) for row in table.rows] == CELLS
    assert [row.line for row in table.rows] == [3, 6]


def test_separator_that_excel_names_is_used_and_unnamed_columns_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sep=;\n;id;a,b,c\n0;x;1,5\n1;y\n")
    table = read_table(path)
    assert table.columns == ("id", "a,b,c")
    assert [(row.line, *row.cells.values()) for row in table.rows] == [(3, "x", "1,5"), (4, "y", "")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has no row below its header"),
        (b"id,set\n", "has no row below its header"),
        (b"id,id\n1,2\n", "has the column id twice"),
        (b"id,age\na,1\nb,63,5\n", "line 3: 3 cells, but the header has 2"),
        (b'id,age\n"a,1\n', "is not valid CSV"),
        (b"id,name\na,M\xfcller\n", "line 2: is not UTF-8. Save the table as 'CSV UTF-8'"),
        (b"PK\x03\x04....", "is a workbook"),
        (b"id\0", "is not a text file"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, content, problem):
    path = tmp_path / "cohort.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
