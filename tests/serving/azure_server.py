"""Azure ML's own inference server on loopback: `azure_server.py PORT [SCRIPT]`, with the model in $AZUREML_MODEL_DIR.

The server has no option for the address and binds all of them; so its default is changed before it runs.
"""

import sys
from pathlib import Path

import azureml_inference_server_http.amlserver as amlserver
from azureml_inference_server_http import constants

import detection_assets.serving as serving

if __name__ == "__main__":
    constants.DEFAULT_HOST = amlserver.DEFAULT_HOST = "127.0.0.1"
    script = sys.argv[2] if len(sys.argv) > 2 else Path(serving.__file__).with_name("score.py")
    sys.argv = ["azmlinfsrv", "--entry_script", str(script), "--port", sys.argv[1]]
    amlserver.run()
