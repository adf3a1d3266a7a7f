//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An nginx is a real one that runs deploy/nginx.conf.
type nginx struct {
	*process
	dir  string
	grpc string // host:port for HTTP/2
	web  string // host:port for HTTP/1.1
	name string
	conf string // file
}

// A group is where a name of x-upstream leads: to pods, or to another nginx,
// which has two ports.
type group struct{ grpc, web []string }

func toAddrs(addrs ...string) group { return group{addrs, addrs} }
func toNginx(n *nginx) group        { return group{[]string{n.grpc}, []string{n.web}} }

// cut is what the timeouts of the shipped file are set to. Every one of them
// must be reached easily by a call that is silent.
const cut = 2 * time.Second

// An adaptation changes the shipped file as text, and fails when it isn't what
// it was written for.
type adaptation struct {
	t    *testing.T
	text string
}

// replace replaces all matches of a pattern, of which there have to be n.
func (a *adaptation) replace(n int, pattern, replacement string) {
	a.t.Helper()
	re := regexp.MustCompile(pattern)
	if got := len(re.FindAllString(a.text, -1)); got != n {
		a.t.Fatalf("deploy/nginx.conf has %d matches of %q, want %d: adapt the test", got, pattern, n)
	}
	a.text = re.ReplaceAllString(a.text, replacement)
}

// paths moves all files into a directory and keeps the workers' user able to
// read it.
func (a *adaptation) paths(dir string) {
	a.t.Helper()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;"
	}
	a.replace(1, `(?m)^user www-data;$`, user)
	a.replace(1, `(?m)^pid /run/nginx\.pid;$`, "pid "+dir+"/pid;")
	a.replace(1, `(?m)^error_log /var/log/nginx/error\.log warn;$`, "error_log stderr notice;")
	a.replace(1, `access_log /var/log/nginx/aipod\.log aipod;`, "access_log "+dir+"/access.log aipod;")
	temp := ""
	for _, module := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("\n    %s_temp_path %s/%s;", module, dir, module)
	}
	a.replace(1, `(?m)^http \{$`, "http {"+temp)
}

// addresses sets where nginx listens and where its upstreams are.
func (a *adaptation) addresses(grpc, web string, upstreams map[string]group) {
	a.t.Helper()
	a.replace(1, `listen 8080 http2`, "listen "+grpc+" http2")
	a.replace(1, `listen 8081`, "listen "+web)
	for i, name := range []string{"xxx", "yyy", "zzz"} {
		to, ok := upstreams[name]
		if !ok {
			to = toAddrs("127.0.0.1:1") // nobody is there
		}
		first, second := fmt.Sprintf(`server 192\.168\.90\.%d:1082;`, 9+i), fmt.Sprintf(`\s+server 192\.168\.90\.%d:1083;`, 9+i)
		block := `(upstream ` + name + `%s \{\s+hash [^;]+;\s+)` + first + second
		a.replace(1, fmt.Sprintf(block, ""), "${1}server "+strings.Join(to.grpc, "; server ")+";")
		a.replace(1, fmt.Sprintf(block, "_web"), "${1}server "+strings.Join(to.web, "; server ")+";")
	}
}

// timeouts cuts all of them.
func (a *adaptation) timeouts() {
	a.t.Helper()
	for _, name := range []string{
		"grpc_read_timeout", "grpc_send_timeout", "proxy_read_timeout", "proxy_send_timeout", "client_body_timeout", "send_timeout",
	} {
		a.replace(1, `(?m)^(    `+name+`\s+)600s;`, "${1}"+fmt.Sprint(cut.Seconds())+"s;")
	}
}

func shippedConfig(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(repoFile(t, "deploy/nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// startNginx starts an nginx with the shipped configuration in front of
// upstreams; those that are not named lead nowhere.
func startNginx(t *testing.T, name string, upstreams map[string]group) *nginx {
	t.Helper()
	binary := tool(t, "nginx")
	// nginx can't listen on port 0, and between looking and binding somebody
	// else may take a port.
	for range 10 {
		n := &nginx{
			dir:  t.TempDir(),
			name: name,
			grpc: fmt.Sprintf("127.0.0.1:%d", freePort(t)),
			web:  fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		}
		conf := &adaptation{t, shippedConfig(t)}
		conf.paths(n.dir)
		conf.addresses(n.grpc, n.web, upstreams)
		conf.timeouts()
		n.conf = filepath.Join(n.dir, "nginx.conf")
		if err := os.WriteFile(n.conf, []byte(conf.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := n.launch(t, binary)
		if err == nil {
			return n
		}
		if _, busy := n.waitLine(0, func(line string) bool { return strings.Contains(line, "Address already in use") }); busy != nil {
			t.Fatal(err)
		}
		n.kill()
	}
	t.Fatal("no free ports for nginx")
	return nil
}

// launch starts the process and waits until it is ready.
func (n *nginx) launch(t *testing.T, binary string) error {
	t.Helper()
	n.process = start(t, "nginx "+n.name, exec.Command(binary, "-p", n.dir, "-c", n.conf, "-e", "stderr", "-g", "daemon off;"))
	_, err := n.waitLine(10*time.Second, func(line string) bool { return strings.Contains(line, "start worker process ") })
	return err
}

// reload has nginx read its configuration again. The workers that were there end,
// after a second at most.
func (n *nginx) reload(t *testing.T) {
	t.Helper()
	n.signal(t, syscall.SIGHUP)
}

// restart kills nginx and starts it again on its ports.
func (n *nginx) restart(t *testing.T) {
	t.Helper()
	n.kill()
	if err := n.launch(t, tool(t, "nginx")); err != nil {
		t.Fatal(err)
	}
}

// access is nginx's access log.
func (n *nginx) access(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A chain is three pods behind an nginx behind an nginx, all with timeouts of
// cut.
type chain struct {
	pods  map[string]*pod
	inner *nginx
	outer *nginx
}

func startChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{pods: map[string]*pod{}}
	inner, outer := map[string]group{}, map[string]group{}
	for _, name := range []string{"xxx", "yyy", "zzz"} {
		c.pods[name] = startPod(t)
		inner[name] = toAddrs(c.pods[name].addr)
	}
	c.inner = startNginx(t, "inner", inner)
	for name := range inner {
		outer[name] = toNginx(c.inner)
	}
	c.outer = startNginx(t, "outer", outer)
	return c
}
