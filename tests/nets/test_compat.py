import subprocess
import sys


def test_torchvision_imports_after_it_in_a_fresh_process():
    code = "import lenspipe.nets.compat, torchvision, timm, torch; torch.ops.torchvision.nms"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
