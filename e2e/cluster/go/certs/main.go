// Command certs makes the small PKI of one local cluster: a certificate
// authority, the certificates named in a JSON list on standard input, and the
// key pair that signs service account tokens, all as PEM files in one folder.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certificate is one entry of the list: a client's identity (name and
// groups), and the addresses it serves where it is a server too.
type certificate struct {
	File   string   `json:"file"`
	Name   string   `json:"name"`
	Groups []string `json:"groups"`
	DNS    []string `json:"dns"`
	IPs    []net.IP `json:"ips"`
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func template(name string, groups []string, days int) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name, Organization: groups},
		NotBefore:             now.Add(-time.Hour), // a clock that was set back is no reason to fail
		NotAfter:              now.AddDate(0, 0, days),
		BasicConstraintsValid: true,
	}, nil
}

func write(path, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, write(path, "EC PRIVATE KEY", der, 0o600)
}

func newAuthority(folder string, days int) (*authority, error) {
	key, err := newKey(filepath.Join(folder, "ca.key"))
	if err != nil {
		return nil, err
	}
	cert, err := template("slipway-local-ca", nil, days)
	if err != nil {
		return nil, err
	}
	cert.IsCA = true
	cert.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{signed, key}, write(filepath.Join(folder, "ca.crt"), "CERTIFICATE", der, 0o644)
}

func (a *authority) sign(folder string, want certificate, days int) error {
	key, err := newKey(filepath.Join(folder, want.File+".key"))
	if err != nil {
		return err
	}
	cert, err := template(want.Name, want.Groups, days)
	if err != nil {
		return err
	}
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(want.DNS)+len(want.IPs) > 0 {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		cert.DNSNames, cert.IPAddresses = want.DNS, want.IPs
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	return write(filepath.Join(folder, want.File+".crt"), "CERTIFICATE", der, 0o644)
}

func newTokenKey(folder string) error {
	key, err := newKey(filepath.Join(folder, "tokens.key"))
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return write(filepath.Join(folder, "tokens.pub"), "PUBLIC KEY", der, 0o644)
}

func run(folder string, days int) error {
	var wanted []certificate
	if err := json.NewDecoder(os.Stdin).Decode(&wanted); err != nil {
		return fmt.Errorf("the list of certificates on standard input: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(folder, days)
	if err != nil {
		return err
	}
	for _, want := range wanted {
		if err := ca.sign(folder, want, days); err != nil {
			return fmt.Errorf("certificate %s: %w", want.File, err)
		}
	}
	return newTokenKey(folder)
}

func main() {
	folder := flag.String("folder", "", "where to write the PEM files")
	days := flag.Int("days", 3650, "how long the certificates are valid")
	flag.Parse()
	if err := run(*folder, *days); err != nil {
		fmt.Fprintln(os.Stderr, "certs:", err)
		os.Exit(1)
	}
}
