# SPDX-License-Identifier: GPL-2.0-or-later
import pytest

# Before it is imported, so that its assertions say what they compared.
pytest.register_assert_rewrite("tests.machine.engines.contract")
