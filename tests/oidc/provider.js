// An OpenID provider that knows one client, `tidemark` with the secret `right`, and gives it tokens for the audience `kafka`.
//   node provider.js PORT
import { generateKeyPairSync } from "node:crypto";
import { Provider } from "oidc-provider";

const port = Number(process.argv[2]);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "tidemark",
      client_secret: "right",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:kafka",
      getResourceServerInfo: () => ({ scope: "count", audience: "kafka", accessTokenTTL: 60, accessTokenFormat: "jwt" }),
      useGrantedResource: () => true,
    },
  },
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), use: "sig", alg: "RS256" }] },
  scopes: ["count"],
});
provider.listen(port, "127.0.0.1", () => console.log("listening"));
