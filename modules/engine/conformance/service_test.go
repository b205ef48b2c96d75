package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"dagger.io/dagger"
	"golang.org/x/net/dns/dnsmessage"
)

// web is a service that gives a page over HTTP on port 8080.
func web(t *testing.T, c *dagger.Client, page string) *dagger.Service {
	t.Helper()
	return busybox(t, c).WithNewFile("/www/index.html", page).WithExposedPort(8080).
		AsService(dagger.ContainerAsServiceOpts{Args: []string{"httpd", "-f", "-p", "8080", "-h", "/www"}})
}

// fetch gives a command of busybox that prints a page.
func fetch(url string) []string { return []string{"wget", "-q", "-Y", "off", "-O", "-", url} }

// fresh makes the commands of a container run and not be remembered.
func fresh(c *dagger.Container) *dagger.Container {
	return c.WithEnvVariable("NOW", fmt.Sprint(time.Now().UnixNano()))
}

func TestServiceBinding(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx, svc := within(t), web(t, c, "the page")
		client := fresh(busybox(t, c)).WithServiceBinding("web", svc)
		if got, err := client.WithExec(fetch("http://web:8080/")).Stdout(ctx); err != nil || got != "the page" {
			t.Errorf("by alias: %q, %v", got, err)
		}
		name, err := svc.Hostname(ctx)
		if err != nil || name == "" {
			t.Fatalf("host name %q, %v", name, err)
		}
		if got, err := client.WithExec(fetch("http://" + name + ":8080/")).Stdout(ctx); err != nil || got != "the page" {
			t.Errorf("by host name: %q, %v", got, err)
		}
		endpoint, err := svc.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "http"})
		if err != nil || endpoint != "http://"+name+":8080" {
			t.Errorf("endpoint %q, %v", endpoint, err)
		}
		if env, err := client.EnvVariables(ctx); err != nil || len(env) != 1 {
			t.Errorf("a binding is seen in the environment: %d variables, %v", len(env), err)
		}
		if out, err := client.WithExec([]string{"env"}).Stdout(ctx); err != nil || strings.Contains(strings.ToUpper(out), "SERVICE") {
			t.Errorf("a binding is seen by the process: %q, %v", out, err)
		}
		_, err = fresh(busybox(t, c)).WithExec(fetch("http://web:8080/")).Sync(ctx)
		var failed *dagger.ExecError
		if !errors.As(err, &failed) {
			t.Errorf("a container without the binding: %v", err)
		}
	})
}

func TestServiceHostname(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		svc := web(t, c, "named").WithHostname("my-web")
		if name, err := svc.Hostname(ctx); err != nil || name != "my-web" {
			t.Errorf("host name %q, %v", name, err)
		}
		got, err := fresh(busybox(t, c)).WithServiceBinding("alias", svc).WithExec(fetch("http://my-web:8080/")).Stdout(ctx)
		if err != nil || got != "named" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// A service uses another one, and both have several ports.
func TestServiceToService(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		back := web(t, c, "from behind")
		front := fresh(busybox(t, c)).WithServiceBinding("back", back).
			WithExposedPort(1001).WithExposedPort(1002).
			AsService(dagger.ContainerAsServiceOpts{Args: sh(
				"nc -ll -p 1001 -e wget -q -Y off -O - http://back:8080/ & exec nc -ll -p 1002 -e echo second")})
		client := busybox(t, c).WithServiceBinding("front", front)
		if got, err := client.WithExec(sh("nc front 1001 < /dev/null")).Stdout(ctx); err != nil || got != "from behind" {
			t.Errorf("through the front: %q, %v", got, err)
		}
		if got, err := client.WithExec(sh("nc front 1002 < /dev/null")).Stdout(ctx); err != nil || got != "second\n" {
			t.Errorf("the second port: %q, %v", got, err)
		}
	})
}

func TestServicePorts(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		svc := busybox(t, c).WithExposedPort(53, dagger.ContainerWithExposedPortOpts{
			Protocol: dagger.NetworkProtocolUdp, Description: "names", ExperimentalSkipHealthcheck: true,
		}).WithExposedPort(80).AsService(dagger.ContainerAsServiceOpts{Args: []string{"sleep", "60"}})
		ports, err := svc.Ports(ctx)
		if err != nil || len(ports) != 2 {
			t.Fatalf("%d ports, %v", len(ports), err)
		}
		number, err := ports[0].Port(ctx)
		if err != nil || number != 53 {
			t.Errorf("first port %d, %v", number, err)
		}
		if text, err := ports[0].Description(ctx); err != nil || text != "names" {
			t.Errorf("description %q, %v", text, err)
		}
		if skip, err := ports[0].ExperimentalSkipHealthcheck(ctx); err != nil || !skip {
			t.Errorf("skip %v, %v", skip, err)
		}
		if protocol, err := ports[0].Protocol(ctx); err != nil || protocol != dagger.NetworkProtocolUdp {
			t.Errorf("protocol %q, %v", protocol, err)
		}
		silent := busybox(t, c).AsService(dagger.ContainerAsServiceOpts{Args: []string{"sleep", "60"}})
		if _, err := silent.Endpoint(ctx); err == nil {
			t.Error("an endpoint without a port")
		}
		if _, err := c.Container().AsService().Hostname(ctx); err == nil {
			t.Error("a service without a command")
		}
	})
}

// UDP is passed on both ways: a name server of this machine answers a step.
func TestServiceUDP(t *testing.T) {
	if tier := os.Getenv("DRYDOCK_TEST_TIER"); tier == "T2" || tier == "T3" {
		t.Skip("a step of tier " + tier + " sends no datagrams")
	}
	each(t, func(t *testing.T, c *dagger.Client) {
		if !isEmbedded(t) {
			t.Skip("a Dagger Engine of v0.21.7 listens on no UDP port for a service of the host")
		}
		server, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go answerNames(server)
		address, _ := server.LocalAddr().(*net.UDPAddr)
		svc := c.Host().Service([]dagger.PortForward{{Frontend: 53, Backend: address.Port, Protocol: dagger.NetworkProtocolUdp}})
		got, err := fresh(busybox(t, c)).WithServiceBinding("names", svc).
			WithExec([]string{"nslookup", "-type=a", "ship.example", "names"}).Stdout(within(t))
		if err != nil || !strings.Contains(got, "192.0.2.7") {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// answerNames answers every question with one address.
func answerNames(server net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := server.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response = true
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
		}}
		if out, err := m.Pack(); err == nil {
			_, _ = server.WriteTo(out, from)
		}
	}
}

func TestServiceLifetime(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		// the service counts its starts in a cache volume
		volume := c.CacheVolume("starts-" + fmt.Sprint(time.Now().UnixNano()))
		svc := busybox(t, c).WithMountedCache("/c", volume).WithExposedPort(8080).AsService(dagger.ContainerAsServiceOpts{
			Args: sh("echo start >> /c/log; exec httpd -f -p 8080 -h /c"),
		})
		if _, err := svc.Start(ctx); err != nil {
			t.Fatal(err)
		}
		count := func() string {
			t.Helper()
			got, err := fresh(busybox(t, c)).WithServiceBinding("web", svc).WithExec(fetch("http://web:8080/log")).Stdout(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		for range 2 {
			if got := count(); got != "start\n" {
				t.Errorf("a running service was started again: %q", got)
			}
		}
		if _, err := svc.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		if got := count(); got != "start\nstart\n" {
			t.Errorf("after a stop: %q", got)
		}
		if _, err := svc.Stop(ctx, dagger.ServiceStopOpts{Kill: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := svc.Stop(ctx); err != nil {
			t.Errorf("stopping what does not run: %v", err)
		}
	})
}

func TestServiceFailures(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		broken := fresh(busybox(t, c)).WithExposedPort(80).AsService(dagger.ContainerAsServiceOpts{Args: sh("echo no luck >&2; exit 5")})
		_, err := broken.Start(ctx)
		if err == nil {
			t.Fatal("a service that ends has started")
		}
		if isEmbedded(t) && (!strings.Contains(err.Error(), "no luck") || !strings.Contains(err.Error(), "5")) {
			t.Errorf("the error does not say why: %v", err)
		}
		_, err = fresh(busybox(t, c)).WithServiceBinding("broken", broken).WithExec([]string{"echo", "ran"}).Sync(ctx)
		if err == nil {
			t.Error("a step ran without its service")
		}
	})
}

// HEALTHCHECK decides when a service is ready: it runs beside it.
func TestServiceHealthcheck(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		base := fresh(busybox(t, c)).WithNewFile("/www/index.html", "early")
		command := dagger.ContainerAsServiceOpts{Args: sh("httpd -p 8080 -h /www; sleep 1; echo ready > /www/index.html; sleep 600")}
		healthy := base.WithExposedPort(8080).WithDockerHealthcheck([]string{"grep ready /www/index.html"}, dagger.ContainerWithDockerHealthcheckOpts{
			Shell: true, Interval: "200ms", Retries: 50,
		}).AsService(command)
		got, err := fresh(busybox(t, c)).WithServiceBinding("web", healthy).WithExec(fetch("http://web:8080/")).Stdout(ctx)
		if err != nil || got != "ready\n" {
			t.Errorf("got %q, %v", got, err)
		}
		sick := base.WithDockerHealthcheck([]string{"false"}, dagger.ContainerWithDockerHealthcheckOpts{Interval: "10ms", Retries: 2}).AsService(command)
		if _, err := sick.Start(ctx); err == nil {
			t.Error("a service whose health check fails has started")
		}
	})
}

// Ports of this machine are given to steps, and services to this machine.
func TestHostService(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "from the host") }))
		defer server.Close()
		_, text, _ := net.SplitHostPort(server.Listener.Addr().String())
		number, _ := strconv.Atoi(text)
		svc := c.Host().Service([]dagger.PortForward{{Frontend: 80, Backend: number}})
		got, err := fresh(busybox(t, c)).WithServiceBinding("outside", svc).WithExec(fetch("http://outside/")).Stdout(ctx)
		if err != nil || got != "from the host" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := c.Host().Service(nil).Hostname(ctx); err == nil {
			t.Error("a host service without ports")
		}
	})
}

func TestTunnel(t *testing.T) {
	each(t, func(t *testing.T, c *dagger.Client) {
		ctx := within(t)
		tunnel, err := c.Host().Tunnel(web(t, c, "through")).Start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		endpoint, err := tunnel.Endpoint(ctx, dagger.ServiceEndpointOpts{Scheme: "http"})
		if err != nil {
			t.Fatal(err)
		}
		get := func() (string, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
			if err != nil {
				return "", err
			}
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				return "", err
			}
			defer resp.Body.Close()
			dt, err := io.ReadAll(resp.Body)
			return string(dt), err
		}
		if got, err := get(); err != nil || got != "through" {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := tunnel.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Fatal(err)
		}
		if got, err := get(); err == nil {
			t.Errorf("after the stop: %q", got)
		}
	})
}
