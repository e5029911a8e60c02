"""Owns settings and stacks made into implementations; the one place of late imports.

May import: every room below client.
Must never know: printing, argv.
"""

from kitaru.wiring.repository import Repository as Repository
from kitaru.wiring.repository import actor_in as actor_in
from kitaru.wiring.repository import can_be_of as can_be_of
from kitaru.wiring.repository import check_names as check_names
from kitaru.wiring.repository import ci_files as ci_files
from kitaru.wiring.repository import commit_words as commit_words
from kitaru.wiring.repository import forge as forge
from kitaru.wiring.repository import manifest_edits as manifest_edits
from kitaru.wiring.repository import read_archive as read_archive
from kitaru.wiring.repository import scaffold as scaffold
from kitaru.wiring.repository import source_roots as source_roots
from kitaru.wiring.repository import unpacked as unpacked
from kitaru.wiring.repository import upstream as upstream
from kitaru.wiring.repository import working_tree as working_tree
from kitaru.wiring.running import captured_descriptors as captured_descriptors
from kitaru.wiring.running import check_image as check_image
from kitaru.wiring.running import leave_process as leave_process
from kitaru.wiring.running import must_run_here as must_run_here
from kitaru.wiring.running import prune_caches as prune_caches
from kitaru.wiring.running import runner_for_snapshot as runner_for_snapshot
from kitaru.wiring.running import runner_of as runner_of
from kitaru.wiring.running import seen_from_here as seen_from_here
from kitaru.wiring.running import stack_named as stack_named
from kitaru.wiring.running import this_host as this_host
from kitaru.wiring.running import this_process as this_process
from kitaru.wiring.running import working_code as working_code
from kitaru.wiring.settling import Silent as Silent
from kitaru.wiring.settling import SystemClock as SystemClock
from kitaru.wiring.settling import absolute_store as absolute_store
from kitaru.wiring.settling import check_answer as check_answer
from kitaru.wiring.settling import check_inputs as check_inputs
from kitaru.wiring.settling import environment as environment
from kitaru.wiring.settling import load_manifest as load_manifest
from kitaru.wiring.settling import open_store as open_store
from kitaru.wiring.settling import own_store as own_store
from kitaru.wiring.settling import probe_store as probe_store
from kitaru.wiring.settling import secret_mask as secret_mask
from kitaru.wiring.settling import settle as settle
from kitaru.wiring.settling import store_id as store_id
from kitaru.wiring.settling import template as template
