"""Runs tests of CPython's own suite, and writes a line for each: its name, and what came of it.

suite.py OUTPUT DIRECTORY NAME...
"""

import os
import sys
import unittest

from test import support

# Needs a kind of socket that hangs without a hypervisor.
LEFT_OUT = "VSOCK"


class Lines(unittest.TestResult):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def say(self, test, what):
        print(test.id().replace(" ", "_"), what, file=self.output, flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.say(test, "hangs")

    def addSuccess(self, test):
        self.say(test, "ok")

    def addExpectedFailure(self, test, error):
        self.say(test, "ok")

    def addUnexpectedSuccess(self, test):
        self.say(test, "failed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.say(test, "failed")
        print(self.failures[-1][1])

    def addError(self, test, error):
        super().addError(test, error)
        self.say(test, "failed")
        print(self.errors[-1][1])

    def addSkip(self, test, reason):
        self.say(test, "skipped")

    def addSubTest(self, test, subtest, error):
        if error:
            self.addFailure(test, error)


def each(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        elif LEFT_OUT not in test.id().upper():
            yield test


def main(output, directory, *names):
    # None that needs more than this machine.
    support.use_resources = []
    support.verbose = 0
    os.chdir(directory)
    loaded = unittest.defaultTestLoader.loadTestsFromNames(names)
    with open(output, "w") as lines:
        # A suite again, for what classes and modules set up.
        unittest.TestSuite(each(loaded)).run(Lines(lines))


main(*sys.argv[1:])
