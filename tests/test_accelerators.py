"""What is said of TPUs and GPUs: the page has the committed results, and the reader of compiled programs counts right.

The programs themselves are compiled by `tests/accelerators/limits.py`, which needs the extra `aot`.
"""

from tests.accelerators import reading, report

PAGE = report.RESULTS.parent.parent / "README.md"


def test_the_page_has_the_tables_of_the_committed_results() -> None:
    assert report.markdown(report.RESULTS) in PAGE.read_text(), "paste what `--table` prints"


def test_the_results_are_of_programs_that_are_there() -> None:
    """And they say which versions and which command gave them."""
    found = report.read(report.RESULTS)
    assert {report.key(result) for result in found["results"]} <= {*report.table()}
    assert found["command"] == "python -m tests.accelerators"
    assert found["machine"]["versions"]["libtpu"] and found["machine"]["versions"]["jax-cuda12-plugin"]


# Cycles: 5 + 7 in the loop once, 3 in the cheaper branch, 100 outside. Bytes: an array of 8 floats has 32, the flag 1.
PROGRAM = """
HloModule example

%square (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %m = f32[8]{0} multiply(%p, %p)
}

%body (t: (f32[8])) -> (f32[8]) {
  %t = (f32[8]{0:T(128)}) parameter(0)
  %x = f32[8]{0:T(128)} get-tuple-element(%t), index=0
  %y = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%square, backend_config={"estimated_cycles":"5"}
  ROOT %r = (f32[8]{0:T(128)}) tuple(%y)
}

%condition (t.1: (f32[8])) -> pred[] {
  %t.1 = (f32[8]{0}) parameter(0)
  %x.1 = f32[8]{0} get-tuple-element(%t.1), index=0
  ROOT %c = pred[] custom-call(%x.1), custom_call_target="any", backend_config={"estimated_cycles":"7"}
}

%cheap (q: f32[8]) -> f32[8] {
  %q = f32[8]{0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%q), kind=kLoop, calls=%square, backend_config={"estimated_cycles":"3"}
}

%dear (q.1: f32[8]) -> f32[8] {
  %q.1 = f32[8]{0} parameter(0)
  ROOT %s = (f32[8]{0}, bf16[8]{0}) sort(%q.1, %q.1), backend_config={"estimated_cycles":"900"}
}

ENTRY %main (a: f32[8], flag: pred[]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %flag = pred[] parameter(1)
  %sum = f32[8]{0} all-reduce-start(%a), to_apply=%square, backend_config={"estimated_cycles":"100"}
  %all = f32[8]{0} all-reduce-done(%sum)
  %tuple = (f32[8]{0}) tuple(%all)
  %loop = (f32[8]{0}) while(%tuple), condition=%condition, body=%body
  %z = f32[8]{0} get-tuple-element(%loop), index=0
  ROOT %k = f32[8]{0} conditional(%flag, %z, %z), BRANCHES
}
"""


def test_the_reader_counts_a_loop_once_the_cheaper_branch_and_no_bookkeeping() -> None:
    for branches in (
        "true_computation=%cheap, false_computation=%dear",
        "branch_computations={%dear, %cheap}",
    ):
        program = PROGRAM.replace("BRANCHES", branches)
        assert reading.cost(program) == reading.Cost(cycles=115, moved=4 * 64 - 31, kernels=4)
        assert reading.collectives(program) == {"all-reduce": 1}
