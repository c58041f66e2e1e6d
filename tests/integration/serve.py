"""`packhorse serve` as a module, so that tests run it by their own interpreter."""

import sys

from packhorse_host.cli.app import main

main(["serve", "--workspace", sys.argv[1]])
