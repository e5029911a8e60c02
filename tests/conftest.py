"""Fixtures for all tests, and the group of process-heavy suites.

``pytest`` runs everything but that group, of which it runs one smoke test a suite; ``pytest --heavy`` runs the rest.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

pytest_plugins = ["tests.s3_servers", "tests.repository"]

settings.register_profile("ci", deadline=None, print_blob=True)
settings.load_profile("ci")

HEAVY = {
    "test_apply_races": "test_a_power_cut_at_any_write_leaves_before_or_after",
    "test_benchmarks": "test_every_benchmark_is_tried_here",
    "test_cancel": "test_a_running_flow_ends_wherever_it_is",
    "test_ci_folders": "test_checks_and_workflows_have_names_of_their_own",
    "test_ci_gitlab": "test_from_merge_request_to_live",
    "test_ci_review": "test_what_was_reviewed_is_applied",
    "test_ci_scripts": "test_from_pull_request_to_live",
    "test_collecting_races": "test_an_apply_and_a_collector_in_any_order",
    "test_executor_crashes": "test_a_power_cut_at_any_write_loses_nothing",
    "test_forked": "test_a_fork_of_the_body_is_told_that_it_records_nothing",
    "test_guides": "test_deploy_and_invoke_flows",
    "test_hosted_runs": "test_a_timeout_stops_code_that_blocks",
    "test_isolated": "test_it_runs_in_another_process_with_typed_values_both_ways",
    "test_kill": "test_runners_that_are_killed_at_random_lose_nothing_on_a_local_store",
    "test_local_runner": "test_all_unmet_requirements_are_in_one_error",
    "test_pages": "test_the_readme_says_what_is_printed",
    "test_races": "test_on_a_local_folder",
    "test_release_story": "test_the_story_of_a_release",
    "test_s3_store": "test_a_large_object_is_never_held_twice",
    "test_scale": "test_the_long_past_is_a_sound_one",
    "test_silent_runners": "test_a_process_that_holds_the_interpreter_is_not_lost",
    "test_story": "test_deploy_canary_promote",
    "test_takeovers": "test_whoever_comes_too_late_runs_nothing",
    "test_venv": "test_an_environment_holds_the_requirements_and_this_kitaru",
}
"""Suite → its smoke test. Suites of processes that are killed and race, of S3, of environments and of pipelines."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--heavy", action="store_true", help="run the process-heavy suites, without their smoke tests")
    parser.addoption("--all", action="store_true", help="run every test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the group that was asked for; every test of a file that is named on the command line."""
    named = any(".py" in argument for argument in config.args)
    if named or config.getoption("--all"):
        return
    heavy = [
        item
        for item in items
        if (smoke := HEAVY.get(item.path.stem)) is not None and getattr(item, "originalname", item.name) != smoke
    ]
    chosen = {id(item) for item in heavy}
    keep = bool(config.getoption("--heavy"))
    config.hook.pytest_deselected(items=[item for item in items if (id(item) in chosen) != keep])
    items[:] = [item for item in items if (id(item) in chosen) == keep]
