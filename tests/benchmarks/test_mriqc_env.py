import json

import numpy as np
from mriqc_env import Call, decode, encode


def test_calls_and_results_pass_through_a_folder(tmp_path):
    call = Call("numpy:sum", (np.arange(6, dtype=np.float32).reshape(2, 3),), {"axis": 0})
    request = {"function": call.function, "args": list(call.args), "kwargs": dict(call.kwargs)}
    text = json.dumps(encode([request, {"x": (np.float64(0.5), None, tmp_path)}], tmp_path))
    back, other = decode(json.loads(text), tmp_path)
    np.testing.assert_array_equal(back["args"][0], call.args[0])
    assert back["args"][0].dtype == np.float32
    assert back["kwargs"] == {"axis": 0}
    assert other == {"x": [0.5, None, str(tmp_path)]}
