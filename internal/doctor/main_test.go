package doctor

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// Most of the tests' time is waiting.
	flag.Parse()
	if given := flag.Lookup("test.parallel"); given.Value.String() == given.DefValue {
		_ = given.Value.Set("6")
	}
	os.Exit(m.Run())
}
