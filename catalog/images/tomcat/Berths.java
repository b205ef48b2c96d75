import jakarta.servlet.annotation.WebServlet;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/** Says where a ship lies, and whom this Java trusts. */
@WebServlet("/berths/*")
public class Berths extends HttpServlet {
    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
        response.setContentType("text/plain;charset=UTF-8");
        if ("/trust".equals(request.getPathInfo())) {
            response.getWriter().println(trusted() + " authorities are trusted");
            return;
        }
        String ship = request.getParameter("of");
        if (ship == null || !ship.matches("[A-Za-z ]{1,40}")) {
            response.sendError(HttpServletResponse.SC_BAD_REQUEST, "say which ship: ?of=NAME");
            return;
        }
        response.getWriter().println(ship + " lies at berth " + (1 + Math.floorMod(ship.hashCode(), 12)));
    }

    /** What a TLS connection would be checked against, if nothing else is said. */
    private static int trusted() throws IOException {
        try {
            SSLContext.getDefault();
            TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
            factory.init((KeyStore) null);
            int n = ((X509TrustManager) factory.getTrustManagers()[0]).getAcceptedIssuers().length;
            if (n < 100) {
                throw new IOException("only " + n + " authorities are trusted here");
            }
            return n;
        } catch (GeneralSecurityException e) {
            throw new IOException(e);
        }
    }
}
